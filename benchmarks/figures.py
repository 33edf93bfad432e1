"""The Target / Actual table of the README, made from what was measured and from nothing else.

python -m benchmarks.figures            # rewrites the table between the markers of README.md

A line whose benchmark did not run here stays as it is.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import SEEDS
from benchmarks.report import FOLDER

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures: written by make figures -->", "<!-- /figures -->"
SIMULATED = "python -m benchmarks.models"
TAOBAO = "python -m benchmarks.models taobao_userbehavior.csv.gz"
UCI = "python -m benchmarks.uci uci_online_shoppers.csv.gz"
FEATURES = 'python -m benchmarks.features "--sizes=1000000 10000000 50000000"'

Report = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: what, how much is asked, where the actual value is read."""

    what: str
    target: str
    files: tuple[str, ...]
    """Below `build/bench`; the target is met when all of them are there and meet it."""
    actual: Callable[..., tuple[str, bool]]
    """(the content of each file there is) -> (what was measured, whether the target is met)."""
    command: str

    @property
    def start(self) -> str:
        """How its line begins, by which it is found again."""
        return f"| {self.what} | {self.target} |"

    def line(self, before: str | None) -> str:
        """What, target, actual, verdict, command; the line `before` where nothing was measured."""
        paths = [FOLDER / name for name in self.files]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        if not found:
            return before or f"{self.start} not measured | - | `{self.command}` |"
        value, met = self.actual(*found)
        verdict = "met" if met else "**missed**"
        if len(found) < len(paths):
            value += f" ({len(paths) - len(found)} of {len(paths)} not measured)"
            verdict = "-" if met else verdict
        return f"{self.start} {value} | {verdict} | `{self.command}` |"


def _champion(report: Report, metric: str) -> float:
    return float(report["models"][report["champion"]][metric]["value"])


def _oracle(report: Report) -> float:
    return next(
        float(m["pr_auc"]["value"]) for n, m in report["models"].items() if n.startswith("oracle")
    )


def _each(
    read: Callable[[Report], float], met: Callable[[float], bool], form: str
) -> Callable[..., tuple[str, bool]]:
    def actual(*reports: Report) -> tuple[str, bool]:
        values = [read(report) for report in reports]
        return ", ".join(format(v, form) for v in values), all(met(v) for v in values)

    return actual


def _taobao(report: Report) -> tuple[str, bool]:
    over = report["over_best_baseline"]
    gain = over["difference"]
    return (
        f"{over['ratio']:.2f}× ({over['baseline']}); {_champion(report, 'pr_auc'):.4f}, difference "
        f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}), "
        f"{report['test']['positives']} positives",
        over["ratio"] >= 1.3,
    )


def _taobao_sessions(report: Report) -> tuple[str, bool]:
    named, sessions = report["champion"], report["sessions"]
    difference = next(name for name in sessions if name.startswith("difference to "))
    best, gain = difference.removeprefix("difference to "), sessions[difference]["pr_auc"]
    ratio = sessions[named]["pr_auc"]["value"] / sessions[best]["pr_auc"]["value"]
    return (
        f"{ratio:.2f}× ({best}); {sessions[named]['pr_auc']['value']:.3f}, difference "
        f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})",
        ratio >= 1.3,
    )


def _uci(values: str) -> Callable[[Report], tuple[str, bool]]:
    def actual(report: Report) -> tuple[str, bool]:
        families = {name: f for name, f in report.items() if name.endswith(f" {values}")}
        name = max(families, key=lambda family: families[family]["ten folds"]["aupr"])
        folds, months = families[name]["ten folds"], families[name]["by month"]
        later = ", ".join(f"{m} {v['auroc']:.3f} / {v['aupr']:.3f}" for m, v in months.items())
        return (
            f"{folds['auroc']:.3f} / {folds['aupr']:.3f} ({name.split()[0]}); by month {later}",
            folds["auroc"] >= 0.937 and folds["aupr"] >= 0.754,
        )

    return actual


def _ratio(peer: str, least: float) -> Callable[[Report], tuple[str, bool]]:
    """Times better than a peer; `floor` is one."""

    def actual(report: Report) -> tuple[str, bool]:
        other = report["floor"] if peer == "floor" else report["peers"][peer]
        better = other / report["ours"] if report["better"] == "lower" else report["ours"] / other
        unit = report["unit"]
        return f"{better:.1f}× ({report['ours']:.3g} against {other:.3g} {unit})", better >= least

    return actual


def _cost(most: float) -> Callable[[Report], tuple[str, bool]]:
    """Times the floor."""

    def actual(report: Report) -> tuple[str, bool]:
        times = report["ours"] / report["floor"]
        ours, floor, unit = report["ours"], report["floor"], report["unit"]
        return f"{times:.2f}× ({ours:.3g} against {floor:.3g} {unit})", times <= most

    return actual


def _memory(contender: str, most: float) -> Callable[[Report], tuple[str, bool]]:
    """Peak memory as a share of a contender's; of none, in gigabytes."""

    def actual(report: Report) -> tuple[str, bool]:
        held = report["peak_memory_gb"]
        ours = held["ours"]
        if not contender:
            return f"{ours:.2f} GB", ours <= most
        return f"{ours / held[contender]:.2f} ({ours:.2f} of {held[contender]:.2f} GB)", (
            ours / held[contender] <= most
        )

    return actual


def _growth(report: Report) -> tuple[str, bool]:
    """How many times the time grows for each time that the log does, step by step."""
    growth, seconds = report["growth_against_linear"], report["all_tables_s"]
    steps = ", ".join(f"{times:.2f}× to {size}" for size, times in growth.items())
    return (
        f"{steps} ({', '.join(f'{size} {s:.0f} s' for size, s in seconds.items())})",
        max(growth.values()) <= 1.15,
    )


def _at_least(least: float) -> Callable[[Report], tuple[str, bool]]:
    return lambda report: (f"{report['ours']:,.0f} {report['unit']}", report["ours"] >= least)


def _predict_tail(report: Report) -> tuple[str, bool]:
    one = report["one_client"]
    return f"{one['p95']:.1f} / {one['p99']:.1f} ms", one["p95"] < 15 and one["p99"] < 25


def _predict_stall(report: Report) -> tuple[str, bool]:
    eight = report["eight_clients"]
    return f"{eight['p99'] / eight['p50']:.1f}×", eight["p99"] <= 3 * eight["p50"]


def _predict_throughput(report: Report) -> tuple[str, bool]:
    ours, stock = report["clients_32"], report["stock_clients_32"]
    times = ours["requests_per_second"] / stock["requests_per_second"]
    return f"{times:.1f}×, {ours['errors']} errors", times >= 3 and not ours["errors"]


def _covered(report: Report) -> tuple[str, bool]:
    percent = report["totals"]["percent_covered"]
    return f"{percent:.1f} %", percent > 90


def _start(report: Report) -> tuple[str, bool]:
    seconds = report["start_to_ready_seconds"]
    return f"{seconds:.1f} s", seconds < 8


SHOPS = tuple(f"simulated-{seed}.json" for seed in SEEDS)
SHOP = f"simulated shop, seeds {', '.join(map(str, SEEDS))}"

ROWS = (
    Row(f"PR-AUC, {SHOP}", "> 0.35", SHOPS,
        _each(lambda r: _champion(r, "pr_auc"), lambda v: v > 0.35, ".3f"), SIMULATED),
    Row("its oracle (the task is not made easy)", "< 0.75", SHOPS,
        _each(_oracle, lambda v: v < 0.75, ".3f"), SIMULATED),
    Row("share of the achievable PR-AUC", "≥ 90 %", SHOPS,
        _each(lambda r: r["achievable"]["pr_auc"], lambda v: v >= 0.9, ".1%"), SIMULATED),
    Row("precision at 5 %", "> 0.30", SHOPS,
        _each(lambda r: _champion(r, "precision_at_5"), lambda v: v > 0.3, ".3f"), SIMULATED),
    Row("calibration error", "≤ 0.01", SHOPS,
        _each(lambda r: _champion(r, "calibration_error"), lambda v: v <= 0.01, ".4f"), SIMULATED),
    Row("Taobao log, items: PR-AUC against the best baseline", "≥ 1.3×", ("taobao.json",),
        _taobao, TAOBAO),
    Row("Taobao log, sessions that hold a purchase: PR-AUC against the best baseline", "≥ 1.3×",
        ("taobao.json",), _taobao_sessions, TAOBAO),
    Row("UCI Online Shoppers, AUROC / AUPR", "≥ 0.937 / 0.754", ("uci.json",),
        _uci("with PageValues"), UCI),
    Row("the same without PageValues", "≥ 0.937 / 0.754", ("uci.json",),
        _uci("without PageValues"), UCI),
    Row("training, 1M rows × all features, against the fit from a ready matrix", "≤ 1.3×",
        ("train.json",), _cost(1.3), "make bench NAME=train"),
    Row("point-in-time join, 500k × 4M rows, against stock Feast", "≥ 20×", ("pit.json",),
        _ratio("stock Feast", 20), "make bench NAME=pit"),
    Row("the same against a bare DuckDB join", "≤ 1.5×", ("pit.json",), _cost(1.5),
        "make bench NAME=pit"),
    Row("its memory, as a share of stock Feast's", "≤ 1/4", ("pit.json",),
        _memory("stock Feast", 0.25), "make bench NAME=pit"),
    Row("the same, 50k × 5M rows, 1 key in 10 asked, against stock Feast", "≥ 3×",
        ("pit_few_keys.json",), _ratio("stock Feast", 3), "make bench NAME=pit"),
    Row("the same, 2M × 20M rows, 5 views: memory", "≤ 8 GB", ("pit_large.json",),
        _memory("", 8), "python -m benchmarks.pit --only=pit_large"),
    Row("materialize, against stock Feast", "≥ 5×", ("materialize.json",),
        _ratio("stock Feast", 5), "make bench NAME=materialize"),
    Row("the same against redis-cli --pipe", "≥ 0.5×", ("materialize.json",),
        _ratio("floor", 0.5), "make bench NAME=materialize"),
    Row("online read, against stock Feast", "≥ 5×", ("online.json",), _ratio("stock Feast", 5),
        "make bench NAME=online"),
    Row("the same against the bare read", "≤ 2×", ("online.json",), _cost(2),
        "make bench NAME=online"),
    Row("sessions of 10M events, against pandas", "≥ 8×", ("sessionize.json",),
        _ratio("pandas", 8), "make bench NAME=sessionize"),
    Row("the same against Polars", "≥ 1×", ("sessionize.json",), _ratio("polars", 1),
        "make bench NAME=sessionize"),
    Row("all feature tables: time per event when the log grows, each size against the one before",
        "≤ 1.15×", ("features.json",), _growth, FEATURES),
    Row("user and item table, against a self-join", "-", ("features.json",),
        _ratio("self-join", 1), "make bench NAME=features"),
    Row("a day more on 10M events, against the whole build", "≥ 10×", ("increment.json",),
        _ratio("whole build", 10), "make bench NAME=increment"),
    Row("live events, taken and in Redis", "> 3,000 a second", ("events.json",),
        _at_least(3000), "make bench NAME=events"),
    Row("POST /predict, 50 items, against its floor", "≤ 2.5×", ("predict.json",), _cost(2.5),
        "make bench NAME=predict"),
    Row("its p95 / p99, one client", "< 15 / 25 ms", ("predict.json",), _predict_tail,
        "make bench NAME=predict"),
    Row("its p99 against its p50, 8 clients", "≤ 3×", ("predict.json",), _predict_stall,
        "make bench NAME=predict"),
    Row("requests a second of 32 clients, against stock Feast and pandas", "≥ 3×",
        ("predict.json",), _predict_throughput, "make bench NAME=predict"),
    Row("start of the service to ready", "< 8 s", ("predict.json",), _start,
        "make bench NAME=predict"),
    Row("scoring all shoppers", "≥ 50,000 rows a second", ("bulk.json",), _at_least(50_000),
        "make bench NAME=bulk"),
    Row("checking 10M events: memory", "≤ 4 GB", ("checks.json",), _memory("", 4),
        "make bench NAME=checks"),
    Row("lines of code that the tests run", "> 90 %", ("coverage.json",), _covered,
        "make coverage"),
)  # fmt: skip


def table(before: str) -> str:
    """The whole table in Markdown; `before` is the one that it takes the place of."""
    lines = ["| what | target | actual | result | command |", "|---|---|---|---|---|"]
    for row in ROWS:
        kept = [line for line in before.splitlines() if line.startswith(row.start)]
        lines.append(row.line(kept[0] if kept else None))
    return "\n".join(lines)


def main() -> None:
    text = README.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{README.name} has no {BEGIN} … {END} to write between.")
    start, rest = text.split(BEGIN, 1)
    before, end = rest.split(END, 1)
    made = table(before)
    README.write_text(f"{start}{BEGIN}\n{made}\n{END}{end}")
    print(made)


if __name__ == "__main__":
    main()
