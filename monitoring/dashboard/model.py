"""How good the model is: on its test, week by week, by slice, and in money."""

from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
from sklearn.metrics import average_precision_score

from monitoring import reports
from monitoring.config import load_config
from monitoring.dashboard.read import BAD, GOOD, QUIET, json_file, page, parquet, series, show_chart
from monitoring.performance import profit_curve
from nextbuy.contract import CHALLENGER, CHAMPION
from nextbuy.models.metrics import calibration_curve
from nextbuy.settings import Settings

METRICS = {
    "pr_auc": "PR-AUC",
    "precision_at_5": "precision at 5 %",
    "calibration_error": "calibration error",
    "profit": "profit (cents)",
}
SCORED = "scored-*.parquet"
SLICE_ROWS = 300


@page("Model", "The champion on its test, week by week since its training, by slice, and in money.")
def show() -> None:
    """Draw the page."""
    settings = Settings()
    report = json_file(settings.reports / "evaluation.json")
    weeks = series(reports.PERFORMANCE)
    if report is None and weeks is None:
        st.info("No model was evaluated yet. Run `nextbuy train`, then `nextbuy evaluate`.")
        return
    test, over_time, matured, versions = st.tabs(
        ["Test", "Week by week", "Calibration, lift, profit", "Champion and challenger"]
    )
    with test:
        _test(report)
    with over_time:
        _weeks(weeks)
    with matured:
        _matured(settings)
    with versions:
        _versions()


def _test(report: dict[str, Any] | None) -> None:
    if report is None:
        st.info("The champion was not tested yet. Run `nextbuy evaluate`.")
        return
    test = report["test"]
    st.markdown(
        f"Version **{report['version']}** ({report['family']}), {test['rows']:,} rows from "
        f"{test['from'][:10]} to {test['to'][:10]}, {test['base_rate']:.2%} of them positive."
    )
    st.caption(report.get("settings", {}).get("question", ""))  # older reports do not say
    if report.get("achievable"):
        share = report["achievable"]["pr_auc"]
        st.metric("Share of the achievable PR-AUC", f"{share:.0%}", border=True, width=280)
    rows = pd.DataFrame(
        [
            {"model": name, **metrics["pr_auc"], "is champion": name == report["champion"]}
            for name, metrics in report["models"].items()
        ]
    )
    color = alt.condition("datum['is champion']", alt.value(GOOD), alt.value(QUIET))
    base = alt.Chart(rows).encode(
        y=alt.Y("model:N", sort="-x", title=None, axis=alt.Axis(labelLimit=240))
    )
    bars = base.mark_bar().encode(x=alt.X("value:Q", title="PR-AUC (95 %)"), color=color)
    rules = base.mark_rule(strokeWidth=2, color=BAD).encode(x="low:Q", x2="high:Q")
    show_chart(bars + rules, 60 + 34 * len(rows))  # the axis takes the sixty
    table = [
        {"model": name, **{metric: value["value"] for metric, value in metrics.items()}}
        for name, metrics in report["models"].items()
    ]
    st.dataframe(table, hide_index=True)


def _weeks(weeks: pd.DataFrame | None) -> None:
    if weeks is None:
        st.info("No week was measured yet. Run `nextbuy monitor`.")
        return
    origins = {"backtest": "every row since the training", "served": "answers over HTTP"}
    available = [origin for origin in origins if (weeks["origin"] == origin).any()]
    origin = st.segmented_control(
        "Predictions", available, default=available[0], format_func=origins.__getitem__
    )
    chosen = weeks[weeks["origin"] == (origin or available[0])]
    chosen = chosen.sort_values("measured_at").groupby("week").tail(1).sort_values("week")
    st.caption(
        "Measured once the horizon of a week's last prediction is over. Until then **estimated** "
        "from the probabilities alone, and right as far as they are calibrated."
    )
    if not chosen["state"].isin(["measured", "estimated"]).any():
        st.info(
            "No week has enough predictions, or both classes, to be measured: "
            f"{int(chosen['rows'].sum()):,} predictions, {int(chosen['open'].sum()):,} still open, "
            f"{int(chosen['censored'].sum()):,} cut off by the end of the events."
        )
    known = chosen[chosen["state"].isin(["measured", "estimated"])]
    for names in (("pr_auc", "precision_at_5"), ("calibration_error", "profit")):
        for place, name in zip(st.columns(2), names, strict=True):
            with place:
                if known[name].notna().any():
                    show_chart(_line(known, name), 220)
    shown = ["week", "state", "rows", "open", "censored", "base_rate", *METRICS]
    st.dataframe(chosen[shown].iloc[::-1], hide_index=True)


def _line(known: pd.DataFrame, name: str) -> alt.LayerChart | alt.FacetChart:
    base = alt.Chart(known).encode(
        x=alt.X("week:T", title=None),
        y=alt.Y(f"{name}:Q", title=METRICS[name], scale=alt.Scale(zero=name != "profit")),
        tooltip=["week:T", "state", "rows", alt.Tooltip(f"{name}:Q", format=",.3f")],
    )
    color = alt.Color(
        "state:N",
        title=None,
        scale=alt.Scale(domain=["measured", "estimated"], range=[GOOD, QUIET]),
        legend=alt.Legend(orient="top"),
    )
    line = base.mark_line(color=QUIET, strokeDash=[3, 3], strokeWidth=1)
    return alt.layer(line, base.mark_point(filled=True, size=70).encode(color=color))


def _matured(settings: Settings) -> None:
    pattern = settings.data / "monitoring" / SCORED
    rows = parquet(pattern, "*", "label IS NOT NULL")
    if rows is None:
        st.info("No row was scored since the training. Run `nextbuy monitor`.")
        return
    # Late rows with a known outcome are those of shoppers who came back soon.
    waiting = parquet(pattern, "min(predicted_at) AS at", "label IS NULL")
    if waiting is not None and waiting["at"].notna().all():
        rows = rows[rows["predicted_at"] < waiting["at"].iloc[0]]
    label, probability = rows["label"].to_numpy(float), rows["probability"].to_numpy(float)
    if not 0 < label.sum() < len(label):
        st.info("The matured rows hold one class only: nothing can be ranked.")
        return
    st.caption(f"{len(rows):,} rows since the training whose outcome is known.")
    left, right = st.columns(2)
    with left:
        st.markdown("**Calibration**: predicted and observed share")
        groups = pd.DataFrame(
            calibration_curve(label, probability), columns=["predicted", "observed", "rows"]
        )
        top = float(groups[["predicted", "observed"]].to_numpy().max())
        ideal = pd.DataFrame({"predicted": [0, top], "observed": [0, top]})
        percent = alt.Axis(format="%")
        diagonal = alt.Chart(ideal).mark_line(color=QUIET, strokeDash=[4, 4])
        points = alt.Chart(groups).mark_line(color=GOOD, point=alt.OverlayMarkDef(color=GOOD))
        show_chart(
            diagonal.encode(
                x=alt.X("predicted:Q", axis=percent), y=alt.Y("observed:Q", axis=percent)
            )
            + points.encode(
                x="predicted:Q", y="observed:Q", tooltip=["predicted", "observed", "rows"]
            )
        )
    config = load_config().performance
    curve = pd.DataFrame(
        profit_curve(label, probability, config), columns=["share", "lift", "profit"]
    )
    with right:
        st.markdown("**Lift**: purchases reached, compared with chance")
        show_chart(_curve(curve.head(50), "lift", "times chance"))
    best = curve.loc[curve["profit"].idxmax()]
    st.markdown(
        f"**Profit** by the share contacted ({config.margin_cents:g} cents a purchase, "
        f"{config.cost_cents:g} cents a contact): the most at {best['share']:.0%}."
    )
    show_chart(_curve(curve, "profit", "cents"))
    _slices(rows)


def _curve(curve: pd.DataFrame, name: str, title: str) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(curve)
        .mark_line(color=GOOD)
        .encode(
            x=alt.X("share:Q", title="share contacted", axis=alt.Axis(format="%")),
            y=alt.Y(f"{name}:Q", title=title),
            tooltip=[alt.Tooltip("share", format=".0%"), alt.Tooltip(name, format=",.1f")],
        )
    )
    return chart


def _slices(rows: pd.DataFrame) -> None:
    st.markdown("**Slices**")
    names = [name for name in rows.columns if "__" in name and rows[name].nunique() > 1]
    texts = [name for name in names if rows[name].dtype == object]
    name = st.selectbox("By", [*texts, *(n for n in names if n not in texts)])
    values = rows[name]
    if values.dtype != object:
        values = pd.qcut(values.astype(float), 4, duplicates="drop").astype(str)
    slices = []
    for value, part in rows.groupby(values.fillna("missing").replace("nan", "missing")):
        if len(part) >= SLICE_ROWS and 0 < part["label"].sum() < len(part):
            slices.append(
                {
                    "slice": value,
                    "rows": len(part),
                    "share bought": part["label"].mean(),
                    "mean probability": part["probability"].mean(),
                    "PR-AUC": average_precision_score(part["label"], part["probability"]),
                }
            )
    if not slices:
        st.info(f"No slice has {SLICE_ROWS} rows of both classes.")
        return
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        pd.DataFrame(slices).sort_values("rows", ascending=False),
        column_config={
            "share bought": percent,
            "mean probability": percent,
            "PR-AUC": st.column_config.ProgressColumn(format="%.3f", min_value=0, max_value=1),
        },
        hide_index=True,
    )


def _versions() -> None:
    runs = series(reports.VERSIONS)
    if runs is None:
        st.info("No version was compared yet. Run `nextbuy train`, then `nextbuy monitor`.")
        return
    last = runs[runs["at"] == runs["at"].max()].sort_values("version", ascending=False)
    if not (last["alias"] == "challenger").any():
        st.caption(
            "No version has the alias `challenger`: only the champion is scored on newer rows."
        )
    st.dataframe(
        last[["version", "alias", "family", "validation_pr_auc", "test_pr_auc", "recent_pr_auc"]],
        column_config={
            "recent_pr_auc": st.column_config.NumberColumn(
                "PR-AUC since the training", help="On the matured rows since the training"
            )
        },
        hide_index=True,
    )
    both = last.dropna(subset=["recent_pr_auc"])
    if len(both):
        show_chart(
            alt.Chart(both)
            .mark_bar()
            .encode(
                y=alt.Y("version:N", title="version"),
                x=alt.X("recent_pr_auc:Q", title="PR-AUC since the training"),
                color=alt.Color(
                    "alias:N",
                    title=None,
                    scale=alt.Scale(domain=[CHAMPION, CHALLENGER], range=[GOOD, QUIET]),
                    legend=alt.Legend(orient="top"),
                ),
            ),
            110 + 40 * len(both),  # the axes and the legend take the rest
        )
