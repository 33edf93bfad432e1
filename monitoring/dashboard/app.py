"""Entry of the dashboard: names the pages."""

import streamlit as st

import nextbuy.telemetry  # noqa: F401  # before any library looks at the environment
from monitoring.dashboard import drift, features, live, model, quality, today, try_it

st.set_page_config(page_title="Nextbuy", page_icon=":material/shopping_cart:", layout="wide")
st.navigation(
    [
        st.Page(today.show, title="Today", url_path="today", default=True),
        st.Page(quality.show, title="Data quality", url_path="quality"),
        st.Page(live.show, title="Live", url_path="live"),
        st.Page(drift.show, title="Drift", url_path="drift"),
        st.Page(model.show, title="Model", url_path="model"),
        st.Page(features.show, title="Features", url_path="features"),
        st.Page(try_it.show, title="Try it", url_path="try"),
    ]
).run()
