"""Asks the running service about a shopper: scores, reasons, and what another price would do."""

from typing import Any

import httpx
import ibis
import pandas as pd
import streamlit as st

from monitoring.dashboard.read import page, parquet
from monitoring.service_metrics import own_service, service_url
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.features.item import TABLE as ITEM
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.shop import shop_settings
from nextbuy.sql import literal, read_parquet
from nextbuy.tables.feature_sql import definition_clock
from nextbuy.tables.sessions import SESSION_EVENTS, session_event_columns
from nextbuy.versioned_table import files, manifest

REASONS = 4
SHOPPERS = 200


@page("Try it", "Ask the running service how likely a shopper buys which item in the next session.")
def show() -> None:
    """Draw the page."""
    known = _recent_shoppers()
    left, right = st.columns(2)
    user = left.selectbox(
        "Shopper",
        known,
        index=None,
        placeholder="choose a recent shopper, or type any id",
        accept_new_options=True,
    )
    items = right.text_input("Items, separated by commas; empty: those touched lately")
    if not user:
        st.info(
            f"Choose a shopper. The service is expected at {service_url()}: run `nextbuy serve`."
        )
        return
    url = own_service(Settings())
    body: dict[str, Any] = {"user_id": user.strip(), "reasons": REASONS}
    if items.strip():
        body["item_ids"] = [item.strip() for item in items.split(",") if item.strip()]
        body["untouched"] = True
    prediction = _ask(url, body)
    if not prediction["items"]:
        st.warning("No item is known that this shopper touched lately. Name items.")
        return
    st.caption(_age(prediction))
    ranked = [item for item in prediction["items"] if item["rank"] is not None]
    if expired := [item["item_id"] for item in prediction["items"] if item["state"] == "expired"]:
        st.info(
            f"The horizon of {len(expired)} items is over, so they have no answer: "
            f"{', '.join(expired[:5])}{' …' if len(expired) > 5 else ''}. For a log of the past "
            "start the service as of its end: `nextbuy serve --at newest`."
        )
    if any(item["state"] == "untouched" for item in ranked):
        st.warning("Never touched by this shopper, so no more than a guess: see the column state.")
    if not ranked:
        return
    if prediction["degraded"]:
        st.warning("Redis did not answer in time: parts of the features are missing.")
    st.caption(f"Model {prediction['model']}, predicted at {prediction['predicted_at'][:19]} UTC")
    top = max(item["probability"] for item in ranked)
    st.dataframe(
        [
            {
                "rank": i["rank"],
                "item": i["item_id"],
                "probability": i["probability"],
                "state": i["state"],
                "touched": _minute(i["touched_at"]),
                "horizon ends": _minute(i["horizon_ends"]),
            }
            for i in ranked
        ],
        column_config={
            "probability": st.column_config.ProgressColumn(
                format="percent", min_value=0, max_value=top
            )
        },
        hide_index=True,
        height=min(36 * (len(ranked) + 1), 320),
    )
    item = st.selectbox("Look closer at", [i["item_id"] for i in ranked])
    chosen = next(i for i in ranked if i["item_id"] == item)
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


def _age(prediction: dict[str, Any]) -> str:
    as_of = f"As of {_minute(prediction['as_of'])} UTC."
    if prediction["last_event_at"] is None:
        return f"{as_of} No event of this shopper is known."
    return (
        f"{as_of} The shopper's last event: {_minute(prediction['last_event_at'])} UTC, "
        f"its horizon ends {_minute(prediction['horizon_ends'])} UTC."
    )


def _minute(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")


def _what_if(url: str, user: str, item: dict[str, Any]) -> None:
    st.markdown("**What if** its price and discount were different?")
    row = _latest_row(item["item_id"])
    if row is None:
        st.caption("No price is known of this item.")
        return
    price_now, discount_now = float(row["price"].iloc[0]), float(row["discount"].fillna(0).iloc[0])
    euros = price_now / 100
    price = 100 * st.slider("Price", 0.5 * euros, 1.5 * euros, euros, step=0.01, format="%.2f")
    most = max(0.5 * euros, discount_now / 100)
    discount = 100 * st.slider("Discount", 0.0, most, discount_now / 100, step=0.01, format="%.2f")
    features = features_at(row, price, discount)
    in_model = set(_model(url)["contract"]["features"])
    context = {item["item_id"]: {k: v for k, v in features.items() if k in in_model}}
    if not context[item["item_id"]]:
        st.caption("The model does not use the price.")
        return
    body = {
        "user_id": user,
        "item_ids": [item["item_id"]],
        "context": context,
        "untouched": True,
    }
    new = _ask(url, body)["items"][0]["probability"]
    change = new - item["probability"]
    st.metric("Probability", f"{new:.2%}", f"{100 * change:+.2f} points", border=True)
    st.caption("Changes what the service knows of the item; the shopper's past stays as it was.")


def features_at(row: pd.DataFrame, price: float, discount: float) -> dict[str, float | None]:
    """The item's features that need a price or a discount, as the model names them.

    Args:
        row: what the item's feature definitions read, one row (`item_row`).
        price: in cents, instead of the row's.
        discount: in cents, instead of the row's.
    """
    features = [f for f in ITEM.features if {"price", "discount"} & set(f.needs)]
    # What the last offer gave is computed again from this one.
    derived = [f.name for f in features if {"price", "discount"} <= set(f.needs)]
    row = row.assign(price=price, discount=discount, offered_price=price, offered_discount=discount)
    changed = ibis.memtable(
        row.assign(**dict.fromkeys(derived)).astype(dict.fromkeys(derived, float))
    )
    values = changed.select(*(f.column(changed) for f in features)).to_pandas().iloc[0]
    return {
        f"{ITEM.name}__{f.name}": None if pd.isna(values[f.name]) else float(values[f.name])
        for f in features
    }


def item_row(settings: Settings, item_id: str) -> pd.DataFrame | None:
    """The newest row with a price of what the item's feature definitions read; None: no price."""
    sessions = manifest(settings.sessions)
    if sessions is None:
        return None
    clock = definition_clock(shop_settings(settings).time_zone, sessions)
    rows = ITEM.rows(SESSION_EVENTS, None, clock, None)
    is_published = rows.event_us <= int(sessions.info["newest_us"])
    newest = rows.filter(is_published & (rows.price > 0)).order_by(rows.event_us.desc()).limit(1)
    with duckdb_connection(settings) as connection:
        connection.execute(
            f"CREATE VIEW session_events AS SELECT {session_event_columns()} "
            f"FROM {read_parquet(files(settings.sessions))} WHERE item_id = {literal(item_id)}"
        )
        row = connection.sql(str(ibis.to_sql(newest, dialect="duckdb"))).df()
    return None if row.empty else row


@st.cache_data(ttl=600, max_entries=200, show_spinner=False)
def _latest_row(item_id: str) -> pd.DataFrame | None:
    return item_row(Settings(), item_id)


def _recent_shoppers() -> list[str]:
    """Shoppers of the newest days with several items to score."""
    folder = Settings().features / "recent_items"
    built = manifest(folder)
    if built is None:
        return []
    for day in sorted(built.days, reverse=True)[:3]:
        rows = parquet(
            folder / f"day={day}" / "*.parquet",
            "DISTINCT user_id",
            f"len(item_ids) >= 3 ORDER BY user_id LIMIT {SHOPPERS}",
        )
        if rows is not None and len(rows) >= 5:
            return [str(user) for user in rows["user_id"]]
    return []


@st.cache_data(ttl=60, show_spinner=False)
def _model(url: str) -> dict[str, Any]:
    return _response(lambda: httpx.get(f"{url}/model", headers=key_headers(), timeout=10), url)


def _ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = key_headers()
    return _response(
        lambda: httpx.post(f"{url}/predict", json=body, headers=headers, timeout=10), url
    )


def _response(call: Any, url: str) -> dict[str, Any]:
    try:
        response: httpx.Response = call()
    except httpx.HTTPError as error:
        raise NextbuyError(
            f"No service answers at {url} ({type(error).__name__}). Start it: `nextbuy serve`"
        ) from error
    if response.is_error:
        raise NextbuyError(f"{url} answered {response.status_code}: {response.text}")
    body: dict[str, Any] = response.json()
    return body
