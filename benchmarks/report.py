"""One file per benchmark, `build/bench/NAME.json`, and a process per contender.

A contender runs in a process of its own, so that its peak memory is its own. The module that
defines it is started again with `--contender NAME` and prints a JSON object as its last line.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

FOLDER = Path(__file__).resolve().parents[1] / "build" / "bench"


@dataclass(frozen=True)
class Result:
    """What a contender printed, and the most memory it held."""

    values: dict[str, Any]
    peak_memory_gb: float

    @property
    def median(self) -> float:
        return median(self.values["measured"])


Contender = Callable[[argparse.Namespace], dict[str, Any]]
"""Runs the work and gives at least `measured`: the values of the repeated runs."""


def arguments(**options: Any) -> argparse.Namespace:
    """`--small` for a smoke run, and what the parent passes to a contender."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="sizes for a smoke run")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    return parser.parse_args()


def run_contender(contenders: Mapping[str, Contender], given: argparse.Namespace) -> None:
    """In the contender's process: do the work, print the result."""
    values = contenders[given.contender](given)
    print(json.dumps({"values": values, "peak_memory_gb": peak_memory_gb()}), flush=True)


def peak_memory_gb() -> float:
    """The most memory this process held since it was started.

    Linux tells it per program; `ru_maxrss` would count what the parent held before the `exec`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return round(int(line.split()[1]) / 1e6, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9, 3)  # bytes on macOS


def measure(module: str, contender: str, **options: Any) -> Result:
    """Run one contender in a process of its own; prints what comes out."""
    passed = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", module, "--contender", contender, *passed]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = Result(**json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"  {contender:>24}: {result.median:10.4g}  {result.peak_memory_gb:5.2f} GB", flush=True)
    return result


def write(
    name: str,
    *,
    work: str,
    unit: str,
    better: Literal["lower", "higher"],
    ours: float,
    peers: Mapping[str, float],
    floor: float,
    peak_memory_gb: Mapping[str, float],
    small: bool = False,
    **more: Any,
) -> None:
    """Write `build/bench/NAME.json` (`NAME-small.json` for a smoke run); prints the ratios.

    All values are medians. `more` is for what one number does not say, such as percentiles.
    """
    content = {
        "name": name,
        "work": work,
        "unit": unit,
        "better": better,
        "ours": ours,
        "peers": dict(peers),
        "floor": floor,
        "peak_memory_gb": dict(peak_memory_gb),
        **more,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}{'-small' * small}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    for peer, value in [*peers.items(), ("floor", floor)]:
        ratio = value / ours if better == "lower" else ours / value
        print(f"  {name}: {ratio:.2f}x {peer}", flush=True)


def millions(numbers: Sequence[int]) -> str:
    """Row counts for a title.

    >>> millions([500_000, 4_000_000])
    '0.5M × 4M'
    """
    return " × ".join(f"{number / 1e6:g}M" for number in numbers)
