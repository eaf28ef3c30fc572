"""Collects these tests only where transformers' own are at hand, and expects those that can't apply to fail."""

import os
from collections import Counter
from pathlib import Path

import pytest
from inapplicable import find_inapplicable

HERE = Path(__file__).parent

# `make conventions` sets it; `make test` runs without.
collect_ignore_glob = [] if "TRANSFORMERS_TESTS" in os.environ else ["*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that the table lists."""
    for item in items:
        if item.path.parent == HERE and (entry := find_inapplicable(item.cls.__name__, item.name)):
            item.add_marker(pytest.mark.xfail(reason=entry.reason, strict=True, run=entry.runs))


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints for each class how its tests ended."""
    counts: dict[str, Counter] = {}
    for outcome in ("passed", "xfailed", "skipped", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if HERE.name in report.nodeid:
                counts.setdefault(report.nodeid.split("::")[1], Counter())[outcome] += 1
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(
            f"{name}: {count['passed']} passed, {count['failed']} failed, {count['xfailed']} can't apply, "
            f"{count['skipped']} skipped by transformers"
        )
