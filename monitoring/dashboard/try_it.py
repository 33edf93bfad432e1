"""A shopper in, the live score out."""

import os

import httpx
import streamlit as st

SERVICE = "NEXTBUY_SERVICE_URL"
"""Environment variable with the address of the running service."""


def show() -> None:
    """Draw the page."""
    st.title("Try it")
    url = os.environ.get(SERVICE, "http://127.0.0.1:3000")
    user = st.text_input("Shopper", placeholder="u000042")
    items = st.text_input("Items, separated by commas; empty: those of the latest session")
    if not user:
        st.info(f"Type a shopper's id. The service is expected at {url}: run `nextbuy serve`.")
        return
    body: dict[str, object] = {"user_id": user.strip()}
    if items.strip():
        body["item_ids"] = [item.strip() for item in items.split(",") if item.strip()]
    try:
        answer = httpx.post(f"{url}/predict", json=body, timeout=10)
    except httpx.HTTPError as error:
        st.error(f"No service answers at {url} ({error}). Start it with `nextbuy serve`.")
        return
    if answer.is_error:
        st.error(f"{url} answered {answer.status_code}: {answer.text}")
        return
    found = answer.json()["items"]
    if not found:
        st.warning("Nothing is known of this shopper's latest session. Name items.")
        return
    st.dataframe(found, hide_index=True)
