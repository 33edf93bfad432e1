"""Live events: what waits, why, and what could not be worked off."""

import sqlite3
from datetime import timedelta

import streamlit as st

from monitoring.dashboard.read import page
from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import LiveStore
from nextbuy.live.health import LiveHealth, live_health
from nextbuy.live.set_apart import events_apart, shoppers_apart
from nextbuy.settings import Settings
from nextbuy.times import to_datetime

LATE_SECONDS = 10
"""Beyond this age of the oldest event that waits, the page says so in red."""
REFRESH = timedelta(seconds=5)


@page("Live", "From an event to the next score: what waits now, and what could not be worked off.")
def show() -> None:
    """Draw the page."""
    if _health(Settings()) is None:
        st.info("No live event has come yet. Run `nextbuy serve` and send some: `POST /events`.")
        return
    _now()
    _set_apart(Settings())


@st.fragment(run_every=REFRESH)
def _now() -> None:
    health = _health(Settings())
    if health is None:
        return
    tiles = st.columns(4)
    tiles[0].metric("Events waiting", f"{health.waiting_events:,}", border=True)
    tiles[1].metric(
        "Oldest waits for",
        f"{health.oldest_seconds:,.1f} s",
        border=True,
        help="Since it was acknowledged; the next score does not know it yet",
    )
    tiles[2].metric(
        "Set apart",
        f"{health.set_apart_events:,}",
        border=True,
        help="Events that could not be worked off; everybody else's went on",
    )
    last = f"Last: {health.restarted_at:%Y-%m-%d %H:%M} UTC" if health.restarted_at else None
    tiles[3].metric("Worker restarts", f"{health.restarts:,}", border=True, help=last)
    if health.waiting_events and health.oldest_seconds > LATE_SECONDS:
        st.error(f"{health.cause} {health.remedy}", icon=":material/error:")
    elif health.is_at_work:
        st.success("The live worker is at work.", icon=":material/check_circle:")
    else:
        st.info(health.cause, icon=":material/info:")
    if health.left_out_shoppers:
        st.warning(
            f"{health.left_out_shoppers:,} shoppers have more events or links than are followed "
            "live; their features wait for the next batch build."
        )


def _set_apart(settings: Settings) -> None:
    with LiveStore(settings) as store:
        events, shoppers = events_apart(store), shoppers_apart(store)
    if not events and not shoppers:
        return
    st.subheader("Set apart")
    st.markdown(
        "Once the cause is removed, `nextbuy live retry` lets them arrive again. "
        "`nextbuy live discard` removes what will never be a valid event."
    )
    rows = [
        {
            "set apart": to_datetime(each.set_apart_us),
            "event_id": repr(each.event.event_id),
            "user_id": repr(each.event.user_id),
            "event_type": each.event.event_type,
            "event time": to_datetime(each.event.event_us),
            "error": each.error,
        }
        for each in events
    ]
    if rows:
        st.dataframe(rows, hide_index=True)
    if shoppers:
        st.dataframe(
            [{"user_id": repr(user), "error": error} for user, error in shoppers.items()],
            hide_index=True,
        )


def _health(settings: Settings) -> LiveHealth | None:
    try:
        return live_health(settings)
    except sqlite3.Error as error:
        raise NextbuyError(f"The live store cannot be read: {error}.") from error
