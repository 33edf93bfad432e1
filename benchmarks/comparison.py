"""The stores beside stock Feast and the floor: table and plots of docs/stores.md.

python -m benchmarks.comparison, after the benchmarks pit, materialize and online. It reads
build/bench/*.json and measures nothing itself.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import FOLDER

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURES = DOCS / "stores.md", DOCS / "figures"
BEGIN, END = "<!-- measured: python -m benchmarks.comparison -->\n", "<!-- measured -->\n"
STOCK, OURS, FLOOR = "stock Feast", "ours", "floor"
COLORS = {OURS: "#1b6ca8", STOCK: "#c44e52", FLOOR: "#8c8c8c"}


@dataclass(frozen=True)
class Target:
    """One row of the table and what it must reach; None where nothing was promised."""

    name: str
    """The file in build/bench."""
    title: str
    times_stock: float | None = None
    """At least so many times as fast as stock Feast."""
    times_floor: float | None = None
    """At most so many times the time of the floor."""
    of_stock_memory: float | None = None
    """At most this share of stock Feast's peak memory."""


TARGETS = (
    Target("pit", "point-in-time", 20, 1.5, 1 / 4),
    Target("pit_many_keys", "the same, 40 rows of history per key"),
    Target("pit_few_keys", "point-in-time, 1 in 10 keys asked", 3),
    Target("pit_short_history", "the same, 10 rows per key"),
    Target("pit_large_quarter", "point-in-time, 5 views, a quarter"),
    Target("pit_large", "point-in-time, 5 views"),
    Target("materialize", "materialize, hashes", 5, 2),
    Target("materialize_packed", "materialize, both layouts"),
    Target("online", "online read, packed", 5, 2),
    Target("online_hashes", "online read, hashes", 5, 2),
)


def main() -> None:
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "nextbuy", "font.size": 9, "axes.axisbelow": True})
    found = [(target, _read(target.name)) for target in TARGETS]
    measured = [(target, result) for target, result in found if result]
    FIGURES.mkdir(exist_ok=True)
    _plot(measured, "stores-speed.svg", "time, as a multiple of ours (log)", _times)
    _plot(measured, "stores-memory.svg", "peak memory of the process, GB", _memory)
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + _table(measured) + _remarks(measured) + END + after)
    missing = [target.name for target, result in found if not result]
    print(f"wrote {PAGE} and {FIGURES}" + f"; not measured: {', '.join(missing)}" * bool(missing))


def _read(name: str) -> dict[str, Any] | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _table(measured: list[tuple[Target, dict[str, Any]]]) -> str:
    lines = [
        "| work | ours | stock Feast | floor | times stock's speed | times the floor's time "
        "| of stock's memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, result in measured:
        percentiles = [("", result)]
        if "p99" in result:
            percentiles.append((", p99", {**result, **_p99(result)}))
        for suffix, each in percentiles:
            times, memory = _times(each), each["peak_memory_gb"]
            share = memory[OURS] / memory[STOCK] if STOCK in memory else None
            cells = [
                f"{target.title}{suffix}: {each['work']}",
                *(_value(value, each["unit"]) for value in _values(each)),
                _against(times.get(STOCK), target.times_stock, least=True),
                _against(1 / times[FLOOR], target.times_floor, least=False),
                _against(share, target.of_stock_memory, least=False),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(["", *lines, "", ""])


def _remarks(measured: list[tuple[Target, dict[str, Any]]]) -> str:
    """What no column says: growth with the rows, memory with the history."""
    found = {target.name: result for target, result in measured}
    lines = []
    if large := found.get("pit_large"):
        said = f"The largest join took {large['ours']:.3g} s and {large['peak_memory_gb'][OURS]} GB"
        if quarter := found.get("pit_large_quarter"):
            said += f", {large['ours'] / quarter['ours']:.2g} times the time of a quarter of it"
        lines.append(f"{said}.")
    if materialized := found.get("materialize"):
        memory = materialized["peak_memory_gb"]
        (shorter,) = [name for name in memory if name.startswith(f"{OURS}, ")]
        lines.append(
            f"Materialization held {memory[OURS]} GB; with {shorter.removeprefix(f'{OURS}, ')} "
            f"per key it held {memory[shorter]} GB."
        )
    return "\n".join([*lines, "", ""]) if lines else ""


def _p99(result: dict[str, Any]) -> dict[str, Any]:
    tail = result["p99"]
    return {"ours": tail[OURS], "peers": tail, "floor": tail[FLOOR]}


def _values(result: dict[str, Any]) -> tuple[float | None, ...]:
    return result["ours"], result["peers"].get(STOCK), result["floor"]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _against(value: float | None, target: float | None, least: bool) -> str:
    if value is None:
        return "-"
    if target is None:
        return f"{value:.2g}"
    reached = value >= target if least else value <= target
    limit = f"{'at least' if least else 'at most'} {target:g}"
    return f"**{value:.3g}** ({limit}: {'reached' if reached else 'missed'})"


def _times(result: dict[str, Any]) -> dict[str, float]:
    """Each contender's time as a multiple of ours."""
    ours, stock, floor = _values(result)
    assert ours is not None
    both = {STOCK: stock, FLOOR: floor}
    lower = result["better"] == "lower"
    ratios = {n: (v / ours if lower else ours / v) for n, v in both.items() if v is not None}
    return {OURS: 1.0, **ratios}


def _memory(result: dict[str, Any]) -> dict[str, float]:
    return {n: v for n, v in result["peak_memory_gb"].items() if n in (OURS, STOCK)}


def _plot(measured: list[tuple[Target, dict[str, Any]]], file: str, label: str, of: Any) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.45 * len(measured) + 1), layout="constrained")
    for place, (_, result) in enumerate(reversed(measured)):
        values = of(result)
        axes.hlines(place, min(values.values()), max(values.values()), color="#dddddd", zorder=1)
        for name, value in values.items():
            axes.scatter(value, place, color=COLORS[name], s=30, zorder=2)
            if name == STOCK:
                axes.annotate(
                    f"{value:.3g}", (value, place), xytext=(6, -3), textcoords="offset points"
                )
    axes.set_yticks(range(len(measured)), [target.title for target, _ in reversed(measured)])
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    if of is _times:
        axes.set_xscale("log")
    names = [name for name in COLORS if any(name in of(result) for _, result in measured)]
    for name in names:
        axes.scatter([], [], color=COLORS[name], label=name)
    figure.legend(ncols=3, loc="outside upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
