"""Shared by the benchmarks: runs in turn within one process, and peak memory in a process of its own."""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def median_milliseconds(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Runs each contender once a round, in turn, so that other load on the machine affects all of them.

    Args:
        contenders: What to run, by name.
        rounds: Rounds that count; one more warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mebibytes(run: Callable[[], object]) -> float:
    """How far the memory of this process rises above what it holds now (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory_mebibytes("VmRSS")
    run()
    return memory_mebibytes("VmHWM") - before


def memory_mebibytes(name: str) -> float:
    """A line of the kernel's account of this process: VmRSS is its memory now, VmHWM the peak."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def printed_by(script: str, *arguments: str) -> float:
    """The number that a script prints when it is run in a new process.

    There nothing that another way left in the allocator's hands hides what this one needs.
    """
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
