"""Every feature: meaning, origin, freshness, missing values, distribution."""

from itertools import pairwise

import altair as alt
import numpy as np
import streamlit as st

from monitoring import reports
from monitoring.dashboard.read import GOOD, bin_edges, page, parquet, series, show_chart
from nextbuy.contract import FEATURE_SERVICE
from nextbuy.features import TABLES, supported_tables
from nextbuy.settings import Settings
from nextbuy.versioned_table import manifest

SAMPLE = 20_000
BINS = 40
"""Bars of a distribution, at most."""


@page(
    "Features", "What the model reads: meaning, origin, freshness, missing values and distribution."
)
def show() -> None:
    """Draw the page."""
    settings = Settings()
    sessions = manifest(settings.sessions)
    if sessions is None:
        st.info("No feature table was built yet. Run `nextbuy demo`. The features it can hold:")
    supported = {
        (table.name, feature.name)
        for table in supported_tables(sessions.info["provides"] if sessions else None)
        for feature in table.features
    }
    drift = series(reports.DRIFT)
    missing: dict[str, float] = {}
    if drift is not None:
        last = drift[drift["against"] == "training"].sort_values(["compared_at", "week"])
        missing = last.groupby("feature")["missing"].last().to_dict()
    rows = []
    for table in TABLES:
        built = manifest(settings.features / table.name)
        rows += [
            {
                "view": table.name,
                "feature": feature.name,
                "meaning": feature.description,
                "window": feature.window,
                "unit": feature.unit,
                "missing": missing.get(f"{table.name}__{feature.name}"),
                "newest day": max(built.days) if built and built.days else None,
                "in model": table.in_model and (table.name, feature.name) in supported,
            }
            for feature in table.features
        ]
    views = [table.name for table in TABLES]
    chosen = st.pills("Views", views, selection_mode="multi", default=[])
    sought = st.text_input("Search", placeholder="price")
    shown = [
        row
        for row in rows
        if (not chosen or row["view"] in chosen)
        and sought.lower() in f"{row['feature']} {row['meaning']}".lower()
    ]
    st.dataframe(
        shown,
        column_config={"missing": st.column_config.NumberColumn(format="percent")},
        hide_index=True,
        height=380,
    )
    _spread(settings)
    st.subheader("Lineage")
    _lineage()


def _spread(settings: Settings) -> None:
    built = [t for t in TABLES if manifest(settings.features / t.name) is not None]
    if not built:
        return
    st.subheader("Distribution")
    left, right = st.columns(2)
    table = left.selectbox("View", built, format_func=lambda t: t.name)
    drawable = [f for f in table.features if f.dtype in ("int64", "float64", "string")]
    if not drawable:
        st.info("This view holds lists, which have no distribution to draw.")
        return
    feature = right.selectbox("Feature", drawable, format_func=lambda f: f.name)
    st.caption(f"{feature.description}. Unit: {feature.unit}.")
    files = settings.features / table.name / "day=*" / "*.parquet"
    is_text = feature.dtype == "string"
    value = (
        f'"{feature.name}" AS value' if is_text else f'CAST("{feature.name}" AS DOUBLE) AS value'
    )
    sample = f"true USING SAMPLE reservoir({SAMPLE} ROWS) REPEATABLE (1)"
    values = parquet(files, value, sample)
    if values is None or values["value"].isna().all():
        st.info("Every value is missing: the log lacks what this feature needs.")
        return
    st.caption(f"{values['value'].isna().mean():.1%} of {len(values):,} sampled rows are missing.")
    known = values.dropna()
    if is_text:
        top = known["value"].value_counts().head(20).reset_index()
        bars = alt.Chart(top).encode(x=alt.X("value:N", sort="-y", title=None), y="count:Q")
    else:
        edges = bin_edges(known["value"], BINS)
        counts, _ = np.histogram(known["value"], edges)
        bins = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
        binned = [{"low": low, "high": high, "rows": n} for (low, high), n in bins]
        bars = alt.Chart(alt.InlineData(values=binned)).encode(
            x=alt.X("low:Q", bin="binned", title=feature.name),
            x2="high:Q",
            y=alt.Y("rows:Q", title="rows"),
        )
    show_chart(bars.mark_bar(color=GOOD), 240)


def _lineage() -> None:
    edges = ["events -> sessions", "sessions -> labels"]
    for table in TABLES:
        edges.append(f"sessions -> {table.name}")
        if table.in_model:
            edges.append(f'{table.name} -> "{FEATURE_SERVICE}"')
    edges += ['labels -> "training set"', f'"{FEATURE_SERVICE}" -> "training set"']
    edges += ['"training set" -> model', f'"{FEATURE_SERVICE}" -> service', "model -> service"]
    edges += ["service -> predictions"]
    style = (
        'rankdir=LR; bgcolor="transparent"; node [shape=box, style="rounded,filled", '
        'fillcolor="#2a9d8f", color="#2a9d8f", fontcolor="white", fontname="sans-serif", '
        'fontsize=11]; edge [color="#8d99ae"]'
    )
    st.graphviz_chart(f"digraph {{ {style}; {'; '.join(edges)} }}")
