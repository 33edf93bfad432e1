"""What goes along with a person, what is only named, and where an erasure stops."""

import json
import shlex
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from typer.testing import CliRunner

from nextbuy.cli import app
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.live.event_store import EventRow, LiveStore
from nextbuy.maintenance.erase import JOURNAL, forget
from nextbuy.maintenance.erase_files import without
from nextbuy.maintenance.linked_ids import linked_ids
from nextbuy.settings import Settings, refuse_old_layout
from nextbuy.stores.online.redis_server import running_redis
from tests.nextbuy.small_log import ingest, log, quarantined, shop
from tests.shop import environment, publish_events

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    with environment(tmp_path) as settings, running_redis(settings):
        yield settings


def events(rows):
    """Canonical events of (user, hour, type, shop session)."""
    made = [
        {
            "event_id": f"e{number}",
            "user_id": user,
            "event_time": START + timedelta(hours=hour),
            "event_type": kind,
            "item_id": None if kind == "login" else "i1",
            "source_session_id": session,
        }
        for number, (user, hour, kind, session) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, EVENT_SCHEMA)


def users(settings):
    files = sorted(settings.events.resolve().rglob("*.parquet"))
    return [user for file in files for user in pq.read_table(file)["user_id"].to_pylist()]


LOG = [
    ("phone", 0, "view", "s1"), ("phone", 1, "view", "s1"), ("ann", 2, "login", "s1"),
    ("ann", 3, "view", "s1"),
    ("kiosk", 0, "view", "s2"), ("ann", 1, "login", "s2"), ("bob", 2, "login", "s2"),
    ("bob", 3, "view", "s2"),
    ("late", 5, "view", "s1"),  # came after the log-in
    ("other", 0, "view", "s3"),
]  # fmt: skip


def test_a_visitor_of_this_person_alone_goes_along_and_others_are_named(settings):
    publish_events(events(LOG), settings)
    report = forget(settings, "ann")
    assert [(v.user_id, v.events) for v in report.taken] == [("phone", 2)]
    assert [(v.user_id, v.other_shoppers) for v in report.not_taken] == [("kiosk", ("bob",))]
    assert "phone (2 events)" in str(report)
    assert "kiosk (1 event; bob logged in with it too)" in str(report)
    forget(settings, "ann", remove=True)
    assert sorted(users(settings)) == ["bob", "bob", "kiosk", "late", "other"]


def test_the_operator_decides_on_linked_ids(settings):
    publish_events(events(LOG), settings)
    with pytest.raises(NextbuyError, match="No log-in links other to ann"):
        forget(settings, "ann", also=["other"])
    forget(settings, "ann", also=["kiosk"], keep_linked=True, remove=True)
    assert sorted(users(settings)) == ["bob", "bob", "late", "other", "phone", "phone"]


def test_a_visitor_takes_no_shopper_along(settings):
    publish_events(events(LOG), settings)
    report = forget(settings, "kiosk", remove=True)
    assert report.shoppers == ["ann", "bob"]
    assert report.taken == report.not_taken == []
    assert sorted(users(settings)) == sorted(user for user, *_ in LOG if user != "kiosk")


def test_a_log_in_that_has_only_arrived_live_links_too(settings):
    publish_events(events(LOG[:2]), settings)
    with LiveStore(settings) as store:
        login = EventRow("x", "ann", 1_704_074_400_000_000, "login", source_session_id="s1")
        store.append([login], 0)
    assert [each.user_id for each in forget(settings, "ann").taken] == ["phone"]


def test_a_shop_session_that_a_crowd_shares_links_nobody(settings):
    """A shop that sends "0" for want of a session: a log-in there says nothing of the others."""
    crowd = [(f"v{n}", n + 10, "view", "0") for n in range(12)]
    early = [("phone", 0, "view", "0"), ("ann", 1, "login", "0")]
    late = [("bob", 50, "login", "0")]
    publish_events(events([*early, *crowd, *late]), settings)
    assert [each.user_id for each in forget(settings, "ann").taken] == ["phone"]
    report = forget(settings, "bob")
    assert report.taken == report.not_taken == []


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(0, 5),
        st.sampled_from(["view", "login"]),
        st.sampled_from(["s1", "s2", None]),
    ),
    min_size=1,
    max_size=12,
)


@how(max_examples=40, deadline=None, derandomize=True)
@given(rows=ROWS)
def test_links_are_what_the_log_says(tmp_path_factory, rows):
    settings = Settings(data=tmp_path_factory.mktemp("links"))
    publish_events(events(rows), settings)

    def shoppers_of(visitor):
        return {
            user
            for user, at, kind, session in rows
            if kind == "login" and session and user != visitor
            and any(v == visitor and s == session and t <= at for v, t, _, s in rows)
        }  # fmt: skip

    everybody = sorted({user for user, *_ in rows})
    linked, shoppers = linked_ids(settings, "a")
    assert shoppers == sorted(shoppers_of("a"))
    assert {v.user_id: (v.events, v.other_shoppers, v.logs_in_itself) for v in linked} == {
        visitor: (
            sum(user == visitor for user, *_ in rows),
            tuple(sorted(shoppers_of(visitor) - {"a"})),
            any(user == visitor and kind == "login" for user, _, kind, _ in rows),
        )
        for visitor in everybody
        if "a" in shoppers_of(visitor)
    }


def test_an_interrupted_erasure_is_completed_by_the_next(settings, monkeypatch):
    publish_events(events(LOG), settings)

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nextbuy.maintenance.erase.rows_in", crash)
        with pytest.raises(KeyboardInterrupt):
            forget(settings, "ann", remove=True)
    assert json.loads((settings.data / JOURNAL).read_text()) == ["ann", "phone"]
    report = forget(settings, "bob", remove=True)
    assert report.resumed == ["ann", "phone"]
    assert sorted(users(settings)) == ["kiosk", "late", "other"]
    assert not (settings.data / JOURNAL).exists()


def test_the_same_id_in_a_shop_within_the_folder_stays(settings):
    inner = Settings(data=settings.data / "my_shop")
    publish_events(events(LOG), settings)
    publish_events(events(LOG), inner)
    report = forget(settings, "bob", remove=True)
    assert "other shops lie within this folder and were not touched: my_shop" in str(report)
    assert "bob" not in users(settings)
    assert sorted(users(inner)) == sorted(user for user, *_ in LOG)


REFUSED = [
    'ann,2024-01-01 10:00:00,pv,1,x',
    'bob,2024-01-01 10:00:00,pv,ann,x',
    'bob,2024-01-01 10:00:00,nothing,ann,1',
    'ann,2024-01-01 10:00:00,pv',
    '"ann,2024-01-01 10:00:00,pv,1,1',
]  # fmt: skip


def test_a_refused_row_is_a_persons_by_the_cell_of_the_mapping(settings, tmp_path):
    good = [f"joe,2024-01-01 1{n}:00:00,pv,1,1" for n in range(9)]
    report = ingest([log(tmp_path / "l.csv", *good, *REFUSED)], shop(), settings)
    before = quarantined(report)
    assert [row["user_id"] for row in before] == ["ann", "bob", "bob", None, None]
    erased = forget(settings, "ann", remove=True)
    assert erased.removed["quarantine"] == 1
    assert erased.holdings.unattributed == 2
    assert "2 refused rows mention the id, but cannot be read" in str(erased)
    assert quarantined(report) == before[1:]
    forget(settings, "ann", remove=True, unattributed=True)
    assert quarantined(report) == before[1:3]


def command(*arguments):
    """Exit code and output of the verb, on one line."""
    shown = CliRunner().invoke(app, ["forget", *arguments])
    return shown.exit_code, " ".join(shown.output.split())


def test_the_verb_counts_first_and_removes_with_yes(settings):
    odd = "--a'b\x01"
    publish_events(events([*LOG, (odd, 0, "view", None)]), settings)
    before = sorted(users(settings))
    code, text = command("ann", "--also", "kiosk", "--keep-linked")
    assert code == 0
    assert "events 4 to remove" in text
    assert "rows of other shoppers touched: 0" in text
    assert "linked by a log-in, to remove as well: kiosk (1 event; bob logged in with it" in text
    assert "next: nextbuy forget --yes --keep-linked --also=kiosk ann" in text
    assert sorted(users(settings)) == before
    code, text = command("--yes", "--also", "kiosk", "--keep-linked", "ann")
    assert code == 0
    assert "searched" in text
    assert "the id is in none of them" in text
    assert sorted(users(settings)) == [odd, "bob", "bob", "late", "other", "phone", "phone"]
    code, text = command("nobody")
    assert (code, "no row, key or report is about nobody" in text) == (0, True)
    code, text = command("--escaped", "--", r"--a'b\u0001")
    assert "next: nextbuy forget --yes --escaped -- " + shlex.quote(r"--a'b\u0001") in text
    code, text = command("--escaped", "--yes", "--", r"--a'b\u0001")
    assert sorted(users(settings)) == ["bob", "bob", "late", "other", "phone", "phone"]


def test_a_demo_laid_out_as_before_is_named_with_what_to_do(tmp_path):
    old = tmp_path / "data"
    for path in ("data/.versions/events-1", "data/features/.versions/user-1", "data/mlflow",
                 "data/rees46/.versions/events-3"):  # fmt: skip
        (tmp_path / path).mkdir(parents=True)
    (old / "events").symlink_to(".versions/events-1")
    with pytest.raises(NextbuyError) as refused:
        refuse_old_layout(old / "demo")
    moved = "mv data/.versions data/events data/features data/mlflow data/demo/"
    assert f"cd {tmp_path} && mkdir data/demo && {moved} - or" in str(refused.value)
    assert f"export NEXTBUY_DATA={old}" in str(refused.value)
    (old / "demo").mkdir()
    refuse_old_layout(old / "demo")
    refuse_old_layout(tmp_path / "elsewhere" / "demo")


def test_a_report_loses_what_is_about_the_person_and_keeps_what_quotes_the_name():
    odd = '"user_id": "ann"'
    others = {"user_id": "bob", "item_id": odd, "note": "{x}"}
    kept = {"rule": odd, "worst": [others], "error": f"3 rows {{}}: {json.dumps(others)}. {odd}"}
    assert without(kept, {"ann"}) == (kept, 0)
    theirs = {"user_id": "ann", "item_id": "{"}
    report = kept | {"worst": [theirs, others], "error": f"For example {json.dumps(theirs)}. Fix"}
    left = kept | {"error": "For example null. Fix"}
    assert without(report, {"ann"}) == (left, 2)
