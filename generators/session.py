"""The sessions of many shoppers on one day, and the state they leave."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from generators.browse import choose, discover
from generators.clicks import ADD, LOGIN, PURCHASE, REMOVE, SCROLL, VIEW, Clicks, timed
from generators.config import ShopConfig
from generators.intent import INTENT_DAYS, PurchaseInputs, World, purchase_probability, wallet_after
from generators.interactions import ItemInteractions, interact, update_items
from generators.login import Identity, identify, pre_login_views
from generators.state import NEVER, ShopperItemState, ShopState
from generators.truth import OracleScore, TruthRows, next_session_buys
from generators.visits import ReturnDistribution, return_distribution
from nextbuy.times import DAY, HOUR, SECOND

MAX_SESSION = 3 * HOUR
"""Longest session, in microseconds."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def run_sessions(
    config: ShopConfig,
    world: World,
    state: ShopState,
    who: Ints,
    score: OracleScore,
    rng: np.random.Generator,
) -> tuple[Clicks, TruthRows]:
    """Simulate the next session of the shoppers `who`, all of them on one day.

    Moves `state` to the ends of these sessions, and counts in `score` the outcomes of the sessions
    before them. The clicks number the sessions from 0.
    """
    start, last_end, items = state.next_start[who], state.last_end[who], state.items.of(who)
    day, first = int((start[0] - config.begin) // DAY), last_end < 0
    away = np.where(first, 0, day - (last_end - config.begin) // DAY)

    bought = _draw_purchases(world, state, who, items, away, day, rng)
    identity = identify(config, who, world.shoppers.people, state.guest[who], first, rng)
    in_time = start - last_end <= config.horizon_days * DAY
    score_matured(config, score, items, last_end, bought & in_time[:, None])

    _fade(world, items, away)
    items = choose(items, bought, discover(world, who, day, rng), rng)
    actions = interact(world, items, bought, who, day, rng)
    clicks, end, dwell = _clicks(config, actions, start, identity.logs_in, rng)
    update_items(items, actions, dwell)
    items = items.keep_strongest()
    wallet = _wallet_left(world, state, who, actions, away, day)

    rate, has_cart = world.shoppers.return_rate[who], np.asarray(items.in_cart.any(axis=1))
    returns = return_distribution(config, end, rate, has_cart, world.traffic)
    offered = _draw_offers(config, who.size, rng)
    rows = _truth_rows(config, world, identity, items, who, wallet, offered, returns)
    items.probability[items.touched] = rows.probability
    before = pre_login_views(config, identity, actions, start, rng)

    next_start, comes_back = returns.draw(rng)
    state.items.put(who, items)
    state.wallet[who], state.last_end[who], state.guest[who] = wallet, end, identity.guest
    state.offered[who] = offered
    state.next_start[who] = np.where(comes_back, next_start, NEVER)
    own = replace(clicks, person=identity.person[clicks.session])
    return Clicks.join([own, before]), rows


def score_matured(
    config: ShopConfig,
    score: OracleScore,
    items: ShopperItemState,
    last_end: Ints,
    bought: Flags,
) -> None:
    """Count the outcomes of the last sessions whose whole horizon lies in the simulated days."""
    matured = items.touched & ((last_end >= 0) & (last_end <= config.matured_until))[:, None]
    score.add(items.probability[matured], bought[matured])


def _draw_purchases(
    world: World,
    state: ShopState,
    who: Ints,
    items: ShopperItemState,
    away: Ints,
    day: int,
    rng: np.random.Generator,
) -> Flags:
    """(shoppers, slots): which known items are bought, drawn from the probability of the truth."""
    known: Flags = items.item >= 0
    entry, inputs = _purchase_inputs(items, known, who, state.wallet[who], state.offered[who])
    chance = purchase_probability(world, inputs, away[entry, None], np.full((entry.size, 1), day))
    bought = np.zeros(known.shape, bool)
    bought[known] = rng.random(entry.size) < chance[:, 0]
    return bought


def _fade(world: World, items: ShopperItemState, away: Ints) -> None:
    """Let intent and satiation fade over the days since the last session."""
    items.intent *= np.exp(-away / INTENT_DAYS)[:, None]
    items.satiation *= np.exp(-away[:, None] / world.catalogue.satiation_days[items.item])


def _wallet_left(
    world: World, state: ShopState, who: Ints, actions: ItemInteractions, away: Ints, day: int
) -> Floats:
    """Cents left after the purchases of the session."""
    price = world.daily_offer.price[day, actions.item]
    spent = np.bincount(actions.entry, price * actions.bought, minlength=who.size)
    return np.maximum(wallet_after(world, who, state.wallet[who], away) - spent, 0.0)


def _draw_offers(config: ShopConfig, sessions: int, rng: np.random.Generator) -> Flags:
    """Which sessions end with an offer. Without the arm nothing is drawn: the shop stays equal."""
    if not config.offer_share:
        return np.zeros(sessions, bool)
    return rng.random(sessions) < config.offer_share


def _truth_rows(
    config: ShopConfig,
    world: World,
    identity: Identity,
    items: ShopperItemState,
    who: Ints,
    wallet: Floats,
    offered: Flags,
    returns: ReturnDistribution,
) -> TruthRows:
    """One row for each touched item: its probability, and what an offer adds to it."""
    entry, inputs = _purchase_inputs(items, items.touched, who, wallet, offered)
    probability = next_session_buys(config, world, inputs, returns, entry)
    uplift = np.full(entry.size, np.nan)
    if config.offer_share:
        with_offer, without = (
            next_session_buys(config, world, replace(inputs, offered=arm), returns, entry)
            for arm in (np.ones(entry.size, bool), np.zeros(entry.size, bool))
        )
        uplift = with_offer - without
    return TruthRows(
        identity.person[entry], inputs.item, returns.end[entry], probability, offered[entry], uplift
    )


def _purchase_inputs(
    items: ShopperItemState, where: Flags, who: Ints, wallet: Floats, offered: Flags
) -> tuple[Ints, PurchaseInputs]:
    """The items at the flagged slots, flat, and the session of each."""
    entry = np.nonzero(where)[0]
    return entry, PurchaseInputs(
        who=who[entry],
        item=items.item[where],
        intent=items.intent[where],
        fatigue=items.fatigue[where],
        satiation=items.satiation[where],
        in_cart=items.in_cart[where],
        wallet=wallet[entry],
        offered=offered[entry],
    )


def _clicks(
    config: ShopConfig,
    actions: ItemInteractions,
    start: Ints,
    logs_in: Flags,
    rng: np.random.Generator,
) -> tuple[Clicks, Ints, Floats]:
    """The events of the actions, the end of each session, and the seconds spent on each item."""
    every = np.arange(actions.entry.size)
    again = np.repeat(every, actions.views - 1)
    scroll = np.repeat(every, actions.scrolls)
    added, removed = np.flatnonzero(actions.added), np.flatnonzero(actions.removed)
    bought, login = np.flatnonzero(actions.bought), np.flatnonzero(logs_in)
    rank = actions.rank.astype(float)
    last = actions.items_by_session(start.size)[actions.entry].astype(float)

    def later(spread: Floats | float, size: int) -> Floats:
        return rng.random(size) * spread

    # (kind, action, moment in the course of the session): one item after the other, then the cart.
    parts = [
        (VIEW, every, rank),
        (VIEW, again, rank[again] + later((last - rank)[again], again.size)),
        (SCROLL, scroll, rank[scroll] + later(0.2, scroll.size)),
        (ADD, added, rank[added] + 0.2 + later(0.2, added.size)),
        (REMOVE, removed, last[removed] + later(0.2, removed.size)),
        (PURCHASE, bought, last[bought] + 0.5 + later(0.2, bought.size)),
    ]
    of_action = np.concatenate([action for _, action, _ in parts])
    kind = np.concatenate([np.full(action.size, kind) for kind, action, _ in parts])
    moment = np.concatenate([moment for *_, moment in parts])
    pause = rng.lognormal(np.log(18.0) + 0.45 * actions.pull[of_action], 0.7)

    session = np.concatenate([actions.entry[of_action], login])
    kind = np.concatenate([kind, np.full(login.size, LOGIN)])
    moment = np.concatenate([moment, np.full(login.size, -1.0)])
    pause = np.concatenate([pause, rng.lognormal(np.log(8.0), 0.5, login.size)])
    pause = np.clip(pause * SECOND, SECOND, config.gap * 2 // 3).astype(np.int64)
    order, time, gap = timed(session, moment, pause, start, MAX_SESSION)

    of_action = np.concatenate([of_action, np.full(login.size, -1)])[order]
    on_item = of_action >= 0
    dwell = np.bincount(of_action[on_item], gap[on_item], minlength=every.size) / SECOND
    session, kind = session[order], kind[order]
    item = np.where(on_item, actions.item[of_action], -1)
    end = time[np.searchsorted(session, np.arange(start.size), side="right") - 1]
    return Clicks(session, time, kind, item, session), end, dwell
