"""What a machine does to a shop: no room, no right to write, no memory, no network, no Redis.

Each fault is a real one. The verb must end with exit 1 and a message of one sentence what, one
sentence what to do; every part of the shop must be as it was; and once the fault is gone, the same
verb must do its work. Run by `make test-faults`; `docs/faults.md` is the table of all faults.
"""

import sqlite3
import sys
from contextlib import closing

import pytest

from tests.faults.shop import TOMORROW, Shop, changed
from tests.faults.verbs import cannot_wall

walls = pytest.mark.skipif(cannot_wall() is not None, reason=f"no namespaces: {cannot_wall()}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop whose first day was lived without a network, where the kernel can take it away."""
    found = Shop(tmp_path_factory.mktemp("shop"))
    try:
        found.live_through_a_day(walled="" if cannot_wall() else "net")
        for done in found.verbs.run(list(TOMORROW)):
            assert done.code == 0, done
        yield found
    finally:
        found.close()


def refused(done, *words):
    """The verb said so, and nothing else: no traceback, no silence."""
    assert done.code == 1, done
    assert "Traceback" not in done.said, done
    error = done.said[done.said.index("error:") :]
    for word in words:
        assert word in error, done


@walls
def test_no_network(shop):
    """The whole first day was lived without one; so is a request to the service."""
    reach = f"{sys.executable} -c \"import socket; socket.create_connection(('192.0.2.1', 80), 5)\""
    outside, asked = shop.verbs.run(reach, ["predict", "u000001"], walled="net")
    assert "Network is unreachable" in outside.said
    assert asked.code == 0, asked
    assert "next session" in asked.said


@walls
def test_full_disk(shop):
    """A disk of its own, filled to the last byte before each stage."""
    disk, aside = shop.data, f"{shop.folder}/aside"
    fill = f"cat /dev/zero > {disk}/ballast"
    drain, state = f"rm {disk}/ballast", {"call": "state"}
    verbs = [shop.ingest, ["sessionize"], ["features"], ["train"], ["materialize"]]
    steps = [f"cp -a {disk} {aside} && mount -t tmpfs -o size=96m none {disk} "
             f"&& cp -a {aside}/. {disk}"]  # fmt: skip
    for verb in verbs:
        steps += [fill, verb, drain, state, verb, state]
    before = shop.verbs.call("state")
    setting_up, *found = shop.verbs.run(*steps, walled="mount")
    assert setting_up.code == 0, setting_up
    for verb in verbs:
        filled, full, _, left, again, after = found[:6]
        del found[:6]
        assert "No space left on device" in filled.said
        refused(full, "The disk is full", "NEXTBUY_DATA")
        # What Redis took in stays; the registry does not know of it yet.
        allowed = {"redis"} if verb == ["materialize"] else set()
        assert changed(before, left.returned()) <= allowed, verb
        assert again.code == 0, again
        before = after.returned()
    shop.shell(f"rm -r {aside}")


@walls
def test_read_only_data_folder(shop):
    """What has something to write says so; what has not, works."""
    before = shop.verbs.call("state")
    writing = [
        [*TOMORROW[:-1], "32"], shop.ingest, ["apply"], ["evaluate"], ["monitor"], ["daily"],
        ["backup", str(shop.archive)], ["predict", "u000001"],
    ]  # fmt: skip
    idle = [["sessionize"], ["features"]]
    bind = f"mount --bind {shop.data} {shop.data} && mount -o remount,bind,ro {shop.data}"
    mounted, *found = shop.verbs.run(bind, *writing, *idle, walled="mount")
    assert mounted.code == 0, mounted
    for done in found[: len(writing)]:
        refused(done, "may not write there", "NEXTBUY_DATA")
    for done in found[len(writing) :]:
        assert done.said.count("(up to date)") >= 2, done
    assert not changed(before, shop.verbs.call("state"))


def test_little_memory(shop):
    """Under `ulimit -v`, from next to nothing on: whoever says no, what is published stays."""
    before, codes = shop.verbs.call("state"), []
    for megabytes in (20, 160):
        done = shop.verbs(*shop.ingest, memory=megabytes << 20)
        print(megabytes, done)
        codes.append(done.code)
        if done.code == 0:
            break
        # Where a thread cannot even begin, a library ends the process; else the message is ours.
        if done.code == 1:
            refused(done, "not enough memory", "NEXTBUY_MEMORY_LIMIT")
        assert not changed(before, shop.verbs.call("state"))
    assert codes[0]
    assert shop.verbs(*shop.ingest).code == 0


def test_damaged_registry(shop):
    registry, before = shop.data / "registry.db", shop.verbs.call("state")
    whole = registry.read_bytes()
    registry.write_bytes(whole[: len(whole) // 2])
    for verb in ("apply", "train", "materialize", "score"):
        refused(shop.verbs(verb), f"{registry} is damaged", "nextbuy apply")
    registry.unlink()
    for done in shop.verbs.run(["apply"], ["materialize"]):
        assert done.code == 0, done
    assert not changed(before, shop.verbs.call("state"))


def test_locked_mlflow_database(shop):
    before = shop.verbs.call("state")
    with closing(sqlite3.connect(shop.data / "mlflow" / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        for verb in ("train", "evaluate"):
            done = shop.verbs(verb)
            print(done)
            refused(done, "database is locked", "Let it end")
    assert not changed(before, shop.verbs.call("state"))
    assert shop.verbs("train").code == 0


def test_emptied_redis_is_filled_by_one_command(shop):
    before = shop.verbs.call("state")
    assert shop.verbs.call("empty_redis") > 100
    assert shop.verbs.call("state") != before
    done = shop.verbs("materialize")
    assert done.code == 0, done
    assert not changed(before, shop.verbs.call("state"))
