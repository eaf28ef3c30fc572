"""What the benchmarks share: runs in turn within one process, and peak memory in a process of its own."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping


def median_milliseconds(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Runs each contender once a round, in turn, so that what else the machine does hits all alike.

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


def peak_mebibytes() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def printed_by(script: str, *arguments: str) -> float:
    """The number that a script prints when it is run in a new process.

    A new process counts what its parent holds as its own peak, so this comes before anything large is made.
    """
    command = [sys.executable, script, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
