"""A shopper in, the live score out: with reasons, and what if the price were another."""

import os
from typing import Any

import httpx
import pandas as pd
import streamlit as st

from monitoring.dashboard.read import page, parquet
from monitoring.latency import SERVICE
from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.sql import literal
from nextbuy.versioned_table import manifest

REASONS = 4
SHOPPERS = 200


@page("Try it", "Ask the running service how likely a shopper buys which item in the next session.")
def show() -> None:
    """Draw the page."""
    url = os.environ.get(SERVICE, "http://127.0.0.1:3000")
    known = _recent_shoppers()
    left, right = st.columns(2)
    user = left.selectbox(
        "Shopper",
        known,
        index=None,
        placeholder="choose a recent shopper, or type any id",
        accept_new_options=True,
    )
    items = right.text_input("Items, separated by commas; empty: those of the latest session")
    if not user:
        st.info(f"Choose a shopper. The service is expected at {url}: run `nextbuy serve`.")
        return
    body: dict[str, Any] = {"user_id": user.strip(), "reasons": REASONS}
    if items.strip():
        body["item_ids"] = [item.strip() for item in items.split(",") if item.strip()]
    answer = _ask(url, body)
    found = answer["items"]
    if not found:
        st.warning("Nothing is known of this shopper's latest session. Name items.")
        return
    if answer["degraded"]:
        st.warning("Redis did not answer in time: parts of the features are missing.")
    st.caption(f"Model {answer['model']}, asked at {answer['predicted_at'][:19]} UTC")
    top = max(item["probability"] for item in found)
    st.dataframe(
        [{"rank": i["rank"], "item": i["item_id"], "probability": i["probability"]} for i in found],
        column_config={
            "probability": st.column_config.ProgressColumn(
                format="percent", min_value=0, max_value=top
            )
        },
        hide_index=True,
        height=min(36 * (len(found) + 1), 320),
    )
    item = st.selectbox("Look closer at", [i["item_id"] for i in found])
    chosen = next(i for i in found if i["item_id"] == item)
    why, if_so = st.columns(2)
    with why:
        st.markdown("**Why**")
        for reason in chosen["reasons"] or []:
            sign = (
                ":material/add_circle:" if reason["effect"] > 0 else ":material/do_not_disturb_on:"
            )
            st.markdown(f"{sign} {reason['text']}")
        if not chosen["reasons"]:
            st.caption("Reasons are given for the ten likeliest items.")
    with if_so:
        _what_if(url, body["user_id"], chosen)


def _what_if(url: str, user: str, item: dict[str, Any]) -> None:
    st.markdown("**What if** its price and discount were others?")
    now = _price(item["item_id"])
    if now is None:
        st.caption("No price is known of this item.")
        return
    price_now, discount_now, ratio_now = now
    euros = price_now / 100
    price = 100 * st.slider("Price", 0.5 * euros, 1.5 * euros, euros, step=0.01, format="%.2f")
    most = max(0.5 * euros, discount_now / 100)
    discount = 100 * st.slider("Discount", 0.0, most, discount_now / 100, step=0.01, format="%.2f")
    features: dict[str, float | None] = {
        "item__price": price,
        "item__discount": discount,
        "item__rate_discount": discount / (price + discount) if price + discount else None,
        "item__rate_price": None if pd.isna(ratio_now) else ratio_now * price / price_now,
    }
    taken = set(_model(url)["contract"]["features"])
    context = {item["item_id"]: {k: v for k, v in features.items() if k in taken}}
    if not context[item["item_id"]]:
        st.caption("The model does not take the price.")
        return
    body = {"user_id": user, "item_ids": [item["item_id"]], "context": context}
    new = _ask(url, body)["items"][0]["probability"]
    change = new - item["probability"]
    st.metric("Probability", f"{new:.2%}", f"{100 * change:+.2f} points", border=True)
    st.caption("Changes what the service knows of the item; the shopper's past stays as it was.")


def _recent_shoppers() -> list[str]:
    """Shoppers of the newest days with items in their latest session."""
    folder = Settings().features / "recent_items"
    built = manifest(folder)
    if built is None:
        return []
    for day in sorted(built.days, reverse=True)[:3]:
        rows = parquet(
            folder / f"day={day}" / "*.parquet",
            "DISTINCT user_id",
            f"len(item_ids) BETWEEN 3 AND 20 ORDER BY user_id LIMIT {SHOPPERS}",
        )
        if rows is not None and len(rows) >= 5:
            return [str(user) for user in rows["user_id"]]
    return []


def _price(item_id: str) -> tuple[float, float, float] | None:
    """Price, discount and relative price last seen, in the feature table's units."""
    rows = parquet(
        Settings().features / "item" / "day=*" / "*.parquet",
        "price, discount, rate_price",
        f"item_id = {literal(item_id)} AND price > 0 ORDER BY event_timestamp DESC LIMIT 1",
    )
    if rows is None or rows.empty:
        return None
    row = rows.iloc[0].astype(float)
    return row["price"], 0.0 if pd.isna(row["discount"]) else row["discount"], row["rate_price"]


@st.cache_data(ttl=60, show_spinner=False)
def _model(url: str) -> dict[str, Any]:
    return _answer(lambda: httpx.get(f"{url}/model", headers=key_headers(), timeout=10), url)


def _ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = key_headers()
    return _answer(
        lambda: httpx.post(f"{url}/predict", json=body, headers=headers, timeout=10), url
    )


def _answer(call: Any, url: str) -> dict[str, Any]:
    try:
        response: httpx.Response = call()
    except httpx.HTTPError as error:
        raise NextbuyError(
            f"No service answers at {url} ({type(error).__name__}). Start it: `nextbuy serve`"
        ) from error
    if response.is_error:
        raise NextbuyError(f"{url} answered {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer
