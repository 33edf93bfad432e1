"""Every feature once more, slowly: plain Python over lists, no windows, no change points.

Written from the features' descriptions. Only tests use it.
"""

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from nextbuy.times import DAY, SECOND
from tests.nextbuy.reference_links import MOVES, NAMES, LinkedHistory, Session, order

WINDOWS = {"": 10**9 * DAY, "_1d": DAY, "_7d": 7 * DAY, "_30d": 30 * DAY}


def ratio(part, whole):
    return part / whole if whole else None


def since(now, then):
    return None if then is None else (now - then) // SECOND


def mean(values):
    known = [value for value in values if value is not None]
    return ratio(sum(known), len(known))


def discounted(events):
    return mean([None if e["discount"] is None else e["discount"] > 0 for e in events])


def rate_of_last_offer(events):
    """Share of the list price taken off, by the last event that says both."""
    offers = [
        e
        for e in events
        if (e["price"] or 0) + (e["discount"] or 0) > 0 and None not in (e["price"], e["discount"])
    ]
    return (
        ratio(offers[-1]["discount"], offers[-1]["price"] + offers[-1]["discount"])
        if offers
        else None
    )


class Reference(LinkedHistory):
    def __init__(self, events, config, zone="UTC"):
        self.events = sorted(events, key=order)
        self.config, self.zone = config, ZoneInfo(zone)
        self.sessions = {}
        self.bots = set()
        for user in sorted({e["user_id"] for e in events}):
            self.sessions[user] = self._cut([e for e in self.events if e["user_id"] == user])
        self.link()

    def _cut(self, events):
        sessions, current, is_bot = [], [], False
        for e in events:
            if current and e["event_us"] - current[-1]["event_us"] > self.config.gap_us:
                sessions.append(Session(current))
                current = []
            current.append(e)
            n = len({other["event_us"] for other in current})
            elapsed = e["event_us"] - current[0]["event_us"]
            pace = n * SECOND >= elapsed * self.config.bot_events_per_second
            is_bot |= n >= self.config.bot_session_events
            is_bot |= n >= self.config.bot_burst_events and pace
            if is_bot:
                self.bots.add(e["event_id"])
        return [*sessions, Session(current)]

    def shown(self, us):
        """What the shop's clock shows."""
        return datetime.fromtimestamp(us // SECOND, UTC).astimezone(self.zone)

    def day(self, us):
        return self.shown(us).date().toordinal()

    def user(self, user, now):
        past = self.known(user, now)
        row = {}
        for suffix, width in WINDOWS.items():
            inside = [s for s in past if s.end > now - width]
            row[f"n_sessions{suffix}"] = len(inside)
            for name in ("n_views", "n_carts", "n_removes", "n_purchases"):
                row[f"{name}{suffix}"] = sum(s.count(name) for s in inside)
            row[f"spend{suffix}"] = sum(
                e["price"] or 0 for s in inside for e in s.events if e["event_type"] == "purchase"
            )
        events = [e for s in past for e in s.events]
        views = [e for e in events if e["event_type"] == "view"]
        bought = [e for e in events if e["event_type"] == "purchase"]
        carted = [s for s in past if s.count("n_carts")]
        first = min(s.end for s in past)
        own = [s.end for s in self.sessions[user] if s.end < now]
        purchases = [s.end for s in past if s.count("n_purchases")]
        hours = [self.shown(s.start).hour for s in past]
        days = [self.shown(s.start).weekday() for s in past]
        return row | {
            "rate_purchase": ratio(row["n_purchases"], row["n_views"]),
            "rate_purchase_30d": ratio(row["n_purchases_30d"], row["n_views_30d"]),
            "rate_cart": ratio(row["n_carts"], row["n_views"]),
            "rate_abandoned": ratio(sum(not s.count("n_purchases") for s in carted), len(carted)),
            "seconds_since_first_session": since(now, first),
            "seconds_since_previous_session": since(now, max(own, default=None)),
            "seconds_since_purchase": since(now, max(purchases, default=None)),
            "mean_session_gap_seconds": ratio((now - first) / SECOND, len(past) - 1),
            "mean_viewed_price": mean([e["price"] for e in views]),
            "mean_bought_price": mean([e["price"] for e in bought]),
            "rate_discounted_views": discounted(views),
            "rate_discounted_purchases": discounted(bought),
            "rate_weekend_sessions": ratio(sum(d >= 5 for d in days), len(days)),
            "rate_night_sessions": ratio(sum(h < 6 for h in hours), len(hours)),
            "rate_evening_sessions": ratio(sum(h >= 18 for h in hours), len(hours)),
        }

    def session(self, user, now):
        (s,) = (s for s in self.visits_of(user) if s.end == now)
        return {name: s.count(name) for name in NAMES.values()} | {
            "n_events": len(s.events),
            "n_items": len(s.items()),
            "n_categories": len({e["category"] for e in s.events} - {None}),
            "duration_seconds": (s.end - s.start) // SECOND,
            "mean_pause_seconds": ratio((s.end - s.start) / SECOND, len(s.events) - 1),
            "entry_hour": self.shown(s.start).hour,
            "entry_weekday": self.shown(s.start).weekday(),
        }

    def recent_items(self, user, now):
        ends = [s.end for s in self.sessions[user]]
        touches = [(n, 0, s) for n, s in enumerate(self.visits_of(user))]
        touches += [
            (min(n for n, end in enumerate(ends) if end >= known_us), 1, s)
            for known_us, s in self.linked[user]
            if known_us <= ends[-1]
        ]
        last = ends.index(now)
        listed = [
            (
                -n,
                is_linked,
                -s.end,
                -max(i for i, e in enumerate(s.events) if e in s.of(item)),
                item,
            )
            for n, is_linked, s in touches
            for item in s.items()
            if last - 30 < n <= last and now - ends[n] <= 90 * DAY
        ]
        return {"item_ids": list(dict.fromkeys(item for *_, item in sorted(listed)))[:100]}

    def user_item(self, user, item, now):
        s = self.sessions_shown(user)[item, now]
        told = self.told(user, item, now)
        past = [p for p in self.known(user, now) if item in p.items()]
        touched = s.of(item)
        numbers = [i + 1 for i, e in enumerate(s.events) if e["item_id"] == item]
        row = {f"{name}_session": s.count(name, item) for name in NAMES.values()}
        row |= {
            "dwell_seconds_session": self._dwell(s, item) // SECOND,
            "rate_events_session": len(touched) / len(s.events),
            "first_position_session": numbers[0],
            "n_events_after_session": len(s.events) - numbers[-1],
            "seconds_since_touch": since(now, touched[-1]["event_us"]),
        }
        for suffix in ("", "_7d", "_30d"):
            inside = [p for p in past if p.end > now - WINDOWS[suffix]]
            row[f"n_sessions{suffix}"] = len(inside)
            row[f"n_views{suffix}"] = sum(p.count("n_views", item) for p in inside)
        for name in ("n_scrolls", "n_carts", "n_removes", "n_purchases"):
            row[name] = sum(p.count(name, item) for p in past)
            row[name] += sum(NAMES[e["event_type"]] == name for e in told)
        moves = [
            (order(e), e["event_us"], e["event_type"] == "add_to_cart")
            for e in (*(e for p in past for e in p.of(item)), *told)
            if e["event_type"] in MOVES
        ]
        _, moved, in_cart = max(moves, default=(None, None, False))
        bought = [p.end for p in past if p.count("n_purchases", item)]
        bought += [e["event_us"] for e in told if e["event_type"] == "purchase"]
        priced = [e for p in past for e in p.of(item) if e["price"] is not None]
        category, brand = s.last(item, "category"), s.last(item, "brand")
        price = s.last(item, "price")
        first_price = min(priced, key=order)["price"] if priced else None
        views = [
            e["price"] for p in self.known(user, now) for e in p.events if e["event_type"] == "view"
        ]
        everything = [(p, i) for p in self.known(user, now) for i in p.items()]
        n_all = sum(len(p.of(i)) for p, i in everything)
        return row | {
            "dwell_seconds": sum(self._dwell(p, item) for p in past) // SECOND,
            "is_in_cart": in_cart,
            "is_removed": row["n_removes"] > 0 and not in_cart,
            "seconds_since_cart": since(now, moved),
            "seconds_since_first_touch": since(
                now, min((p.of(item)[0]["event_us"] for p in past), default=None)
            ),
            "seconds_since_purchase": since(now, max(bought, default=None)),
            "price": price,
            "rate_discount": rate_of_last_offer(touched),
            "rate_price_first": None if price is None else ratio(price, first_price),
            "rate_price_usual": None
            if price is None
            else ratio(price * sum(p is not None for p in views), sum(p or 0 for p in views)),
            "rate_category": self._affinity(everything, category, "category", n_all),
            "rate_brand": self._affinity(everything, brand, "brand", n_all),
        }

    def _affinity(self, everything, value, name, n_all):
        if value is None:
            return None
        alike = sum(len(p.of(i)) for p, i in everything if p.last(i, name) == value)
        return ratio(alike, n_all)

    def _dwell(self, s, item):
        return sum(
            min(after["event_us"] - e["event_us"], DAY // 48)
            for e, after in pairwise(s.events)
            if e["item_id"] == item
        )

    def _daily(self, key, value, now, windows):
        today = self.day(now)
        seen = [
            (self.day(e["event_us"]), e)
            for e in self.events
            if e[key] == value and e["event_id"] not in self.bots
        ]
        seen = [(day, e) for day, e in seen if day < today]
        row = {}
        for suffix in windows:
            width = WINDOWS[suffix] // DAY
            n = Counter(NAMES.get(e["event_type"]) for day, e in seen if day >= today - width)
            for name in ("n_views", "n_carts", "n_removes", "n_purchases"):
                row[f"{name}{suffix}"] = n[name]
        for suffix in ("_7d", "_30d"):
            width = WINDOWS[suffix] // DAY
            row[f"n_users{suffix}"] = len({e["user_id"] for day, e in seen if day >= today - width})
        row["rate_purchase_30d"] = ratio(row["n_purchases_30d"] + 1, row["n_views_30d"] + 20)
        return row, seen, today

    def last_event(self, user, now):
        return {"last_event_seconds": now // SECOND}

    def category(self, category, now):
        row, _, _ = self._daily("category", category, now, WINDOWS)
        return {name: value for name, value in row.items() if not name.startswith("n_removes")}

    def item(self, item, now):
        row, seen, today = self._daily("item_id", item, now, WINDOWS)

        def latest(name):
            known = [e[name] for _, e in seen if e[name] is not None]
            return known[-1] if known else None

        priced = [
            e["price"]
            for day, e in seen
            if day >= today - 30 and e["event_type"] == "view" and e["price"] is not None
        ]
        price, discount = latest("price"), latest("discount")
        return row | {
            "category": latest("category"),
            "brand": latest("brand"),
            "rate_cart_30d": ratio(row["n_carts_30d"] + 1, row["n_views_30d"] + 20),
            "rate_views_trend": ratio(row["n_views_7d"] * 30, row["n_views_30d"] * 7),
            "price": price,
            "discount": discount,
            "rate_price": None if price is None else ratio(price * len(priced), sum(priced)),
            "rate_discount": rate_of_last_offer([e for _, e in seen]),
        }
