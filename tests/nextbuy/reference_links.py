"""What a log-in links, slowly: visits, labels, what each id knows of the other. For tests alone."""

from hashlib import md5
from operator import itemgetter

NAMES = {
    "view": "n_views",
    "scroll": "n_scrolls",
    "add_to_cart": "n_carts",
    "remove_from_cart": "n_removes",
    "purchase": "n_purchases",
}
MOVES = ("add_to_cart", "remove_from_cart", "purchase")


# What happens first in a shop, where a log gives two events one time.
ORDER = ["login", "view", "scroll", "add_to_cart", "remove_from_cart", "purchase"]


def order(e):
    return e["event_us"], ORDER.index(e["event_type"]), e["event_id"]


class Session:
    def __init__(self, events):
        self.events = events
        self.user, self.start, self.end = (
            events[0]["user_id"],
            events[0]["event_us"],
            events[-1]["event_us"],
        )

    def count(self, name, item=None):
        return sum(
            NAMES.get(e["event_type"]) == name and item in (None, e["item_id"]) for e in self.events
        )

    def items(self):
        return {e["item_id"] for e in self.events if e["item_id"]}

    def of(self, item):
        return [e for e in self.events if e["item_id"] == item]

    def last(self, item, name):
        seen = [e[name] for e in self.of(item) if e[name] is not None]
        return seen[-1] if seen else None


class Visit(Session):
    """A session of the shopper with the part of it before the log-in."""

    def __init__(self, user, key, events):
        super().__init__(events)
        self.user, self.key, self.begin = user, key, max(key, self.start)


class LinkedHistory:
    """Reads `events` (in order), `config`, `sessions` and `bots`, which the heir sets."""

    def link(self):
        self.crowded = self._crowded()
        self.links = self._links()
        self.moved = self._moved()
        self.linked = self._linked()

    def _crowded(self):
        """Shop session -> since when more shoppers have used it than one can have."""
        found = {}
        for name in {e["source_session_id"] for e in self.events} - {None}:
            seen = set()
            for e in self.events:
                if e["source_session_id"] == name:
                    seen.add(e["user_id"])
                    if len(seen) > self.config.max_shoppers:
                        found[name] = e["event_us"]
                        break
        return found

    def shop_session(self, e):
        """The shop session, or None from the moment on at which too many have used it."""
        name = e["source_session_id"]
        return name if e["event_us"] < self.crowded.get(name, 10**18) else None

    def _links(self):
        """Visitor -> (shopper, since when)."""
        logins = [e for e in self.events if e["event_type"] == "login"]
        found = {}
        for login in sorted(logins, key=lambda e: (e["event_us"], e["user_id"])):
            for e in self.events:
                visitor = e["user_id"]
                if (
                    self.shop_session(e) == self.shop_session(login) is not None
                    and e["event_us"] <= login["event_us"]
                    and visitor != login["user_id"]
                    and not any(
                        other["user_id"] == visitor and other["event_us"] <= login["event_us"]
                        for other in logins
                    )
                ):
                    found.setdefault(visitor, (login["user_id"], login["event_us"]))
        return found

    def _moved(self):
        """Event id -> the shopper's session in which the visitor's visit goes on."""
        found = {}
        self.parts = []  # (visitor's session, shopper's session)
        for login in (e for e in self.events if e["event_type"] == "login"):
            (into,) = (s for s in self.sessions[login["user_id"]] if login in s.events)
            for visitor, (shopper, linked_us) in self.links.items():
                seen = [
                    (e["event_us"], s)
                    for s in self.sessions[visitor]
                    for e in s.events
                    if self.shop_session(login) == self.shop_session(e) is not None
                    and e["event_us"] <= login["event_us"]
                ]
                if (
                    shopper == login["user_id"]
                    and linked_us <= login["event_us"]
                    and seen
                    and login["event_us"] - seen[-1][0] <= self.config.gap_us
                ):
                    part = seen[-1][1]
                    self.parts.append((part, into))
                    for e in part.events:
                        if e["event_us"] <= login["event_us"]:
                            found.setdefault(e["event_id"], into)
        return found

    def visits(self):
        """(user, start of the session) -> its events, with those of a visitor who logged in."""
        found = {}
        for own in self.sessions.values():
            for s in own:
                for e in s.events:
                    into = self.moved.get(e["event_id"], s)
                    found.setdefault((into.user, into.start), []).append(e)
        return {key: Visit(*key, sorted(events, key=order)) for key, events in found.items()}

    def labels(self, newest, horizon_us):
        """(user, item, end of the visit) -> (when it is known, the label)."""
        visits = self.visits()
        found, buyers = {}, {}
        for visit in visits.values():
            if any(e["event_id"] in self.bots for e in visit.events):
                continue
            follow, linked_us = self._next(visit, visits, horizon_us)
            known = visit.end + horizon_us
            if follow is not None:
                known = max(follow.end + self.config.gap_us, linked_us)
            for item in visit.items():
                found[visit.user, item, visit.end] = known, 0
                if follow is not None and follow.count("n_purchases", item):
                    rank = known, -visit.end, visit.user
                    buyers.setdefault((follow, item), []).append((rank, visit))
        for (_, item), rows in buyers.items():
            (known, *_), visit = min(rows, key=lambda row: row[0])
            found[visit.user, item, visit.end] = known, 1
        return {
            key: (known, label if known <= newest else None)
            for key, (known, label) in found.items()
        }

    def _next(self, visit, visits, horizon_us):
        """The visit that follows within the horizon, and when a log-in told of it (or 0)."""

        def first(targets):
            later = [(us, t.user, t.key, t) for us, t in targets if us > visit.end]
            return min(later, default=(None, None, None, None))[::3]

        own = [(v.begin, v) for v in visits.values() if v.user == visit.user]
        own += [
            (part.start, visits[into.user, into.start])
            for part, into in self.parts
            if part.user == visit.user
        ]
        begin, follow = first(own)
        over = visit.end + horizon_us
        known = over if follow is None or begin > over else follow.end + self.config.gap_us
        person, linked_us = self.links.get(visit.user, (visit.user, 0))
        others = [
            (v.begin, v)
            for v in visits.values()
            if v.user == person
            or (
                (v.user in self.links and self.links[v.user][0] == person)
                and v.begin >= self.links[v.user][1]
            )
        ]
        other_begin, other = first(others)
        if other and (follow is None or other_begin < begin) and linked_us <= min(known, over):
            begin, follow = other_begin, other
        else:
            linked_us = 0
        return (None, 0) if follow is None or begin > over else (follow, linked_us)

    def _linked(self):
        """Shopper -> (since when it is known, session) of what visitors did."""
        found = {user: [] for user in self.sessions}
        for own in self.sessions.values():
            for s in own:
                moved = [e for e in self.events if self.moved.get(e["event_id"]) is s]
                if moved:
                    part = Visit(s.user, s.start, moved)
                    found[s.user].append((max(part.end, s.start), part))
        for visitor, (shopper, linked_us) in self.links.items():
            for s in self.sessions[visitor]:
                rest = [e for e in s.events if e["event_id"] not in self.moved]
                if rest:
                    part = Visit(visitor, s.start, rest)
                    known_us = max(part.end + self.config.gap_us + 1, linked_us)
                    found[shopper].append((known_us, part))
        return found

    def visits_of(self, user):
        """The shopper's sessions, with what a visitor did in them before the log-in."""
        for s in self.sessions[user]:
            moved = [e for e in self.events if self.moved.get(e["event_id"]) is s]
            events = sorted([*s.events, *moved], key=order)
            yield Visit(user, s.start, events)

    def known(self, user, now):
        """Sessions of the shopper known at `now`, what is linked included."""
        own = [s for s in self.sessions[user] if s.end <= now]
        return own + [s for known_us, s in self.linked[user] if known_us <= now]

    def sessions_shown(self, user):
        """(item, moment) -> the session that a row of shopper and item tells of."""
        found = {}

        def show(item, moment, rank, s):
            key = (*rank, -s.end, -s.key, md5(f"{s.user}|{s.key}".encode()).hexdigest())
            found[item, moment] = min(
                found.get((item, moment), (key, s)), (key, s), key=itemgetter(0)
            )

        for s in self.visits_of(user):
            for item in s.items():
                show(item, s.end, (0,), s)
        for known_us, s in self.linked[user]:
            ends = [own.end for own in self.sessions[user] if own.end >= known_us]
            for item in s.items() if ends else ():
                show(item, min(ends), (1,), s)
        shopper, linked_us = self.links.get(user, (None, 0))
        for s in self.visits_of(shopper) if shopper else ():
            for item in s.items():
                since_us = max(linked_us, self._first_touch(user, item))
                moves = sum(s.count(n, item) for n in ("n_carts", "n_removes", "n_purchases"))
                if moves and s.end >= since_us:
                    during = [o.end for o in self.sessions[user] if o.start <= s.end <= o.end]
                    show(item, during[0] if during else s.end, (1,), s)
        return {key: s for key, (_, s) in found.items()}

    def _first_touch(self, user, item):
        return min(
            (e["event_us"] for e in self.events if (e["user_id"], e["item_id"]) == (user, item)),
            default=10**18,
        )

    def told(self, user, item, now):
        """What went into the cart or left it under the shopper's id, since the log-in."""
        shopper, linked_us = self.links.get(user, (None, 0))
        since_us = max(linked_us, self._first_touch(user, item))
        return [
            e
            for e in self.events
            if (e["user_id"], e["item_id"]) == (shopper, item)
            and e["event_type"] in MOVES
            and since_us <= e["event_us"] <= now
        ]
