"""Every feature there is: meaning, window, unit, and whether the log supports it."""

import streamlit as st

from nextbuy.features import TABLES
from nextbuy.settings import Settings
from nextbuy.storage import manifest


def show() -> None:
    """Draw the page."""
    st.title("Features")
    sessions = manifest(Settings().sessions)
    if sessions is None:
        st.info("No feature table was built yet. Run `nextbuy demo`. This is what there can be:")
    provided = None if sessions is None else sessions.info["provides"]
    rows = []
    for table in TABLES:
        kept = {f.name for f in (table if provided is None else table.given(provided)).features}
        rows += [
            {
                "view": table.name,
                "feature": feature.name,
                "meaning": feature.description,
                "window": feature.window,
                "unit": feature.unit,
                "in use": feature.name in kept,
            }
            for feature in table.features
        ]
    st.dataframe(rows, hide_index=True, height=700)
