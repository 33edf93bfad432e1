import runpy
from dataclasses import replace

import ibis
import pytest
from feast import Entity, FeatureView
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbuy.features import TABLES, Feature, supported_tables
from nextbuy.features.catalogue import catalogue
from nextbuy.settings import PROJECT
from nextbuy.times import DAY, SECOND
from tests.nextbuy.histories import CONFIG, START, computed, event, histories
from tests.nextbuy.reference import Reference

SLOW = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
BY_NAME = {table.name: table for table in TABLES}
MIDNIGHTLY = ("item", "category")


@SLOW
@given(histories())
def test_every_feature_agrees_with_the_slow_reference(events):
    reference = Reference(events, CONFIG)
    for name, rows in computed(events).items():
        for key, values in rows.items():
            wanted = getattr(reference, name)(*key)
            assert values.keys() == wanted.keys()
            for feature, value in values.items():
                expected = wanted[feature]
                if isinstance(expected, float):
                    expected = pytest.approx(expected, rel=1e-12)
                assert value == expected, f"{name}.{feature} at {key}"


@SLOW
@given(histories())
def test_a_session_end_has_exactly_one_row_per_key(events):
    reference = Reference(events, CONFIG)
    found = computed(events)
    ends = {(user, s.end) for user, own in reference.sessions.items() for s in own}
    touched = {
        (user, *key) for user in reference.sessions for key in reference.sessions_shown(user)
    }
    assert set(found["user"]) == ends
    assert set(found["session"]) == ends
    assert set(found["last_event"]) == ends
    assert set(found["user_item"]) == touched
    listed = {(user, end) for user, end in ends if reference.recent_items(user, end)["item_ids"]}
    assert set(found["recent_items"]) == listed


@SLOW
@given(histories())
def test_sparse_midnights_answer_for_every_midnight(events):
    reference = Reference(events, CONFIG)
    found = computed(events)
    last = max(e["event_us"] for e in events) // DAY + 35
    for name in MIDNIGHTLY:
        for key in {key[0] for key in found[name]}:
            values = None
            for day in range(START // DAY, last):
                values = found[name].get((key, day * DAY), values)
                if values is not None:
                    wanted = getattr(reference, name)(key, day * DAY)
                    for feature in ("n_views_1d", "n_views_7d", "n_views_30d", "n_users_7d"):
                        assert values[feature] == wanted[feature], (name, feature, day)


def assert_no_leak(events, cut_us, tables):
    """Every value stamped up to the cut is the same with and without what came after the cut."""
    whole = computed(events, tables)
    known = computed([e for e in events if e["event_us"] <= cut_us], tables)
    for name, rows in whole.items():
        for key, values in rows.items():
            if key[-1] <= cut_us:
                assert known[name].get(key) == values, f"{name} at {key} knows what came later"


@SLOW
@given(histories(), st.data())
def test_no_feature_knows_the_future(events, data):
    moments = sorted({e["event_us"] for e in events})
    near = st.sampled_from(moments).flatmap(lambda us: st.sampled_from([us, us - 1, us + 1]))
    midnights = st.sampled_from([us // DAY * DAY for us in moments])
    assert_no_leak(events, data.draw(st.one_of(near, midnights)), TABLES)


def test_a_feature_that_peeks_one_second_ahead_is_caught():
    honest = BY_NAME["session"]

    def peeking(events, *settings):
        rows = honest.rows(events, *settings)
        later = events.select("user_id", soon_us=events.event_us)
        joined = rows.left_join(
            later,
            [
                rows.user_id == later.user_id,
                later.soon_us > rows.event_us,
                later.soon_us <= rows.event_us + 1801 * SECOND,
            ],
        )
        return joined.group_by(["user_id", "event_us"]).aggregate(n_soon=joined.soon_us.count())

    canary = replace(
        honest, name="canary", rows=peeking, features=(Feature("n_soon", "int64", "Planted"),)
    )
    history = [event("u1", 0, "view"), event("u1", 1801 * SECOND, "view")]
    with pytest.raises(AssertionError, match="canary"):
        assert_no_leak(history, START, [canary])


def recent(events):
    return computed(events, [BY_NAME["recent_items"]])["recent_items"]


def test_the_cart_of_yesterday_is_a_candidate_after_the_first_view_of_today():
    events = [
        event("u1", 0, "add_to_cart", "i1"),
        event("u1", DAY, "view", "i2"),
        event("u1", 2 * DAY, "login"),
    ]
    found = recent(events)
    assert found["u1", START + DAY]["item_ids"] == ["i2", "i1"]
    assert found["u1", START + 2 * DAY]["item_ids"] == ["i2", "i1"]


def test_recent_items_are_bounded_in_items_sessions_and_days():
    many = [event("u1", i, "view", f"i{i:03}") for i in range(150)]
    later = [event("u1", d * DAY, "view", "i999") for d in range(1, 30)]
    found = recent([*many, *later, event("u1", 30 * DAY, "view", "i998")])
    newest = [f"i{i:03}" for i in range(149, -1, -1)]
    assert found["u1", START + 149]["item_ids"] == newest[:100]
    assert found["u1", START + DAY]["item_ids"] == ["i999", *newest[:99]]
    assert found["u1", START + 29 * DAY]["item_ids"] == ["i999", *newest[:99]]
    assert found["u1", START + 30 * DAY]["item_ids"] == ["i998", "i999"]  # the 31st session
    seldom = [event("u1", d * DAY, "view", f"i{d}") for d in (0, 90, 180)]
    found = recent(seldom)
    assert found["u1", START + 90 * DAY]["item_ids"] == ["i90", "i0"]
    assert found["u1", START + 180 * DAY]["item_ids"] == ["i180", "i90"]


def test_a_log_in_tells_of_the_anonymous_past_from_that_moment_on():
    past = [event("a1", i * SECOND, "view", source_session_id="s1") for i in range(3)]
    login = event("u1", 60 * SECOND, "login", source_session_id="s1")
    earlier = event("u1", -DAY, "view")
    rows = computed([earlier, *past, login])["user"]
    assert rows[("u1", START - DAY)]["n_views"] == 1
    assert rows[("u1", START + 60 * SECOND)]["n_views"] == 4
    assert rows[("a1", START + 2 * SECOND)]["n_views"] == 3


def test_a_visitor_who_had_logged_in_before_is_nobodys_anonymous_past():
    events = [
        event("u2", 0, "login", source_session_id="s1"),
        event("u2", SECOND, "view", source_session_id="s1"),
        event("u1", 2 * SECOND, "login", source_session_id="s1"),
    ]
    assert computed(events)["user"][("u1", START + 2 * SECOND)]["n_views"] == 0


def test_features_without_support_in_the_log_are_left_out():
    table = BY_NAME["user_item"].supported_by({"view", "purchase", "category"})
    names = {feature.name for feature in table.features}
    assert "rate_category" in names
    assert "n_purchases" in names
    assert not names & {"price", "rate_price_first", "is_in_cart", "n_scrolls", "rate_brand"}


def test_names_are_unique_and_described():
    for table in TABLES:
        names = [feature.name for feature in table.features]
        assert len(names) == len(set(names)), table.name
        assert all(feature.description for feature in table.features)


def test_a_log_has_the_tables_that_it_supports():
    assert [table.name for table in supported_tables(None)] == [table.name for table in TABLES]
    supported = {table.name: table for table in supported_tables({"view", "purchase"})}
    assert supported.keys() == {table.name for table in TABLES} - {"category"}
    assert "n_carts" not in {f.name for f in supported["item"].features}


def test_declared_types_are_what_the_definitions_give():
    from nextbuy.tables.sessions import SESSION_EVENTS

    for table in TABLES:
        schema = table.build(SESSION_EVENTS).schema()
        for feature in table.features:
            kind = schema[feature.name]
            wanted = ibis.dtype(feature.dtype)
            same_family = kind.is_integer() and wanted.is_integer()
            assert same_family or kind.copy(nullable=True) == wanted, f"{table.name}.{feature.name}"


def test_the_catalogue_in_the_docs_is_current():
    page = (PROJECT / "docs" / "feature-catalogue.md").read_text()
    assert page == catalogue(TABLES), "run: make docs"


def test_the_registry_says_what_the_catalogue_says(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    repo = runpy.run_path(str(PROJECT / "feature_repo" / "definitions.py"))
    declared = {view.name: {f.name: f for f in view.features} for view in repo["views"].values()}
    for table in TABLES:
        assert [f.name for f in table.features] == list(declared[table.name]), table.name
        for feature in table.features:
            field = declared[table.name][feature.name]
            assert (field.description, field.tags) == (feature.description, feature.tags)
    # Feast sees what has a name of its own in the module.
    named = [obj for obj in repo.values() if isinstance(obj, FeatureView | Entity)]
    assert {obj.name for obj in named} == repo["views"].keys() | repo["entities"].keys()
    assert len(named) == len(repo["views"]) + len(repo["entities"])
