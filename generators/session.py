"""The sessions of many shoppers on one day, and what they leave behind."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from generators.browse import choose, discover
from generators.clicks import ADD, LOGIN, PURCHASE, REMOVE, SCROLL, VIEW, Clicks, timed
from generators.config import ShopConfig
from generators.intent import WANT_DAYS, InMind, World, purchase_probability, wallet_after
from generators.interactions import Looks, look, remember
from generators.login import identify, prelude
from generators.state import NEVER, Minds, State
from generators.truth import Score, TruthRows, next_session_buys
from generators.visits import returns
from nextbuy.times import DAY, SECOND

LONGEST = 3 * 3600 * SECOND
"""No session is longer, in microseconds."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def hold_sessions(
    config: ShopConfig,
    world: World,
    state: State,
    who: Ints,
    score: Score,
    rng: np.random.Generator,
) -> tuple[Clicks, TruthRows]:
    """Let the next session of the shoppers `who` happen, all of them on one day.

    Moves `state` on to the ends of these sessions, and counts in `score` the outcomes that the
    sessions before were waiting for. The clicks number the sessions from 0 on.
    """
    start, last_end, minds = state.next_start[who], state.last_end[who], state.minds.of(who)
    day, first = int((start[0] - config.begin) // DAY), last_end < 0
    away = np.where(first, 0, day - (last_end - config.begin) // DAY)

    # What the last session left open: this is drawn from the very law that the truth sums up.
    entry, slot = np.nonzero(minds.item >= 0)
    mind = _in_mind(minds, who, state.wallet[who], state.offered[who], entry, slot)
    chance = purchase_probability(world, mind, away[entry, None], np.full((entry.size, 1), day))
    bought = np.zeros(minds.item.shape, bool)
    bought[entry, slot] = rng.random(entry.size) < chance[:, 0]
    identity = identify(config, who, world.shoppers.people, state.guest[who], first, rng)
    in_time = (start - last_end <= config.horizon_days * DAY) & ~identity.signs_up
    score_ripe(config, score, minds, last_end, bought & in_time[:, None])

    minds.want *= np.exp(-away / WANT_DAYS)[:, None]
    minds.sated *= np.exp(-away[:, None] / world.catalogue.sated_days[minds.item])
    minds = choose(minds, bought, discover(world, who, day, rng), rng)
    looks = look(world, minds, bought, who, day, rng)
    clicks, end, dwell = _clicks(config, looks, start, identity.logs_in, rng)
    remember(minds, looks, dwell)
    minds = minds.strongest()

    spent = np.bincount(
        looks.entry, world.shelf.price[day, looks.item] * looks.bought, minlength=who.size
    )
    wallet = np.maximum(wallet_after(world, who, state.wallet[who], away) - spent, 0.0)
    rate = world.shoppers.return_rate[who]
    has_cart: Flags = np.asarray(minds.in_cart.any(axis=1))
    law = returns(config, end, rate, has_cart, world.traffic)
    entry, slot = np.nonzero(minds.touched)
    # Without an arm nothing is drawn: the shop is the same to the last byte.
    offered = np.zeros(who.size, bool)
    if config.offer_share:
        offered = rng.random(who.size) < config.offer_share
    mind = _in_mind(minds, who, wallet, offered, entry, slot)
    # A guest who signs up next time buys under another id, if at all.
    stays = np.where(identity.guest, 1 - config.sign_up_rate, 1.0)[entry]
    probability = stays * next_session_buys(config, world, mind, law, entry)
    uplift = np.full(entry.size, np.nan)
    if config.offer_share:
        with_offer, without = (
            next_session_buys(config, world, replace(mind, offered=arm), law, entry)
            for arm in (np.ones(entry.size, bool), np.zeros(entry.size, bool))
        )
        uplift = stays * (with_offer - without)
    minds.probability[entry, slot] = probability
    rows = TruthRows(
        identity.person[entry], mind.item, end[entry], probability, offered[entry], uplift
    )
    before, rows_before = prelude(config, identity, looks, start, rng)
    matured = rows_before.time <= config.matured_until
    score.add(rows_before.probability[matured], np.zeros(int(matured.sum()), bool))

    next_start, comes_back = law.draw(rng)
    state.minds.put(who, minds)
    state.wallet[who], state.last_end[who], state.guest[who] = wallet, end, identity.guest
    state.offered[who] = offered
    state.next_start[who] = np.where(comes_back, next_start, NEVER)
    person = identity.person[clicks.session]
    mine = Clicks(person, clicks.time, clicks.kind, clicks.item, clicks.session)
    return Clicks.join([mine, before]), TruthRows.join([rows, rows_before])


def score_ripe(
    config: ShopConfig, score: Score, minds: Minds, last_end: Ints, bought: Flags
) -> None:
    """Count the outcomes of the last sessions whose whole horizon lies in the simulated days."""
    matured = minds.touched & ((last_end >= 0) & (last_end <= config.matured_until))[:, None]
    score.add(minds.probability[matured], bought[matured])


def _in_mind(
    minds: Minds, who: Ints, wallet: Floats, offered: Flags, entry: Ints, slot: Ints
) -> InMind:
    return InMind(
        who=who[entry],
        item=minds.item[entry, slot],
        want=minds.want[entry, slot],
        tired=minds.tired[entry, slot],
        sated=minds.sated[entry, slot],
        in_cart=minds.in_cart[entry, slot],
        wallet=wallet[entry],
        offered=offered[entry],
    )


def _clicks(
    config: ShopConfig, looks: Looks, start: Ints, logs_in: Flags, rng: np.random.Generator
) -> tuple[Clicks, Ints, Floats]:
    """The events of the looks, the end of each session, and the seconds spent on each look."""
    every = np.arange(looks.entry.size)
    again = np.repeat(every, looks.views - 1)
    scroll = np.repeat(every, looks.scrolls)
    added, removed = np.flatnonzero(looks.added), np.flatnonzero(looks.removed)
    bought, login = np.flatnonzero(looks.bought), np.flatnonzero(logs_in)
    rank = looks.rank.astype(float)
    last = looks.items_by_session(start.size)[looks.entry].astype(float)

    def later(spread: Floats | float, size: int) -> Floats:
        return rng.random(size) * spread

    # (kind, look, moment in the course of the session); items come up one after the other, and
    # the cart is gone through at the end.
    parts = [
        (VIEW, every, rank),
        (VIEW, again, rank[again] + later((last - rank)[again], again.size)),
        (SCROLL, scroll, rank[scroll] + later(0.2, scroll.size)),
        (ADD, added, rank[added] + 0.2 + later(0.2, added.size)),
        (REMOVE, removed, last[removed] + later(0.2, removed.size)),
        (PURCHASE, bought, last[bought] + 0.5 + later(0.2, bought.size)),
    ]
    of_look = np.concatenate([look for _, look, _ in parts])
    kind = np.concatenate([np.full(look.size, kind) for kind, look, _ in parts])
    moment = np.concatenate([moment for *_, moment in parts])
    pause = rng.lognormal(np.log(18.0) + 0.45 * looks.pull[of_look], 0.7)

    session = np.concatenate([looks.entry[of_look], login])
    kind = np.concatenate([kind, np.full(login.size, LOGIN)])
    moment = np.concatenate([moment, np.full(login.size, -1.0)])
    pause = np.concatenate([pause, rng.lognormal(np.log(8.0), 0.5, login.size)])
    pause = np.clip(pause * SECOND, SECOND, config.gap * 2 // 3).astype(np.int64)
    order, time, gap = timed(session, moment, pause, start, LONGEST)

    of_look = np.concatenate([of_look, np.full(login.size, -1)])[order]
    on_item = of_look >= 0
    dwell = np.bincount(of_look[on_item], gap[on_item], minlength=every.size) / SECOND
    session, kind = session[order], kind[order]
    item = np.where(on_item, looks.item[of_look], -1)
    end = time[np.searchsorted(session, np.arange(start.size), side="right") - 1]
    return Clicks(session, time, kind, item, session), end, dwell
