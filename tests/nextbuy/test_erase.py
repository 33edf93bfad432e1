"""An erasure takes one person, whole, and nothing of anybody else."""

import os
import random
import shutil
import subprocess
import time

import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.maintenance.erase import forget
from nextbuy.stores.online.redis_server import find_redis_server, running_redis
from tests.nextbuy.erasure_shop import NAMES, UNIQUE, ErasureShop
from tests.shop import environment

ERASURES = int(os.environ.get("NEXTBUY_ERASURES", "12"))
"""Of the random shop; 1,000 take a quarter of an hour."""
IDS = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
    st.integers(0, 200).map(str),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with environment(tmp_path_factory.mktemp("e")) as settings, running_redis(settings):
        yield ErasureShop(settings)


def loaded_keys(folder, scratch):
    """The keys that a Redis of its own reads from the files of another one."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch, ignore=shutil.ignore_patterns("*.sock", "*.lock", "*.pid"))
    socket = scratch / "s"
    append_only = "yes" if list(scratch.glob("appendonly*")) else "no"
    server = subprocess.Popen(
        [find_redis_server(), "--port", "0", "--unixsocket", socket, "--dir", scratch,
         "--appendonly", append_only, "--save", ""],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        for _ in range(400):
            try:
                return set(client.keys())
            except redis.ConnectionError:
                time.sleep(0.01)
        raise AssertionError("the files are not read")
    finally:
        server.terminate()
        server.wait()


def files_with(data, text):
    """Files that hold a text: their bytes, and the values of Parquet files."""
    for file in data.rglob("*"):
        if file.is_file() and not file.is_symlink() and not file.is_socket():
            held = text.encode() in file.read_bytes()
            if file.suffix == ".parquet":
                held |= text in str(pq.read_table(file).to_pylist())
            if held:
                yield file


def check(shop, user, scratch=None):
    """Erase one shopper and compare everything with what must remain.

    With a scratch folder, first try a dry run, and afterwards load Redis' files there.
    """
    if scratch is not None:
        counted = forget(shop.settings, user)
        assert counted.holdings.others == 0
        assert not counted.is_removed
        assert shop.contents() == shop.remaining()  # a dry run touches nothing
    report = forget(shop.settings, user, remove=True)
    assert report.left == []
    assert report.holdings.others == 0
    assert shop.contents() == shop.remaining({user})
    if user.startswith(UNIQUE):
        assert list(files_with(shop.settings.data, user)) == []
    if scratch is not None:
        assert report.removed == dict(counted.holdings.rows)
        assert loaded_keys(shop.settings.redis, scratch) == set(shop.client.keys())
    shop.things = {
        place: [(owner, thing) for owner, thing in things if owner != user]
        for place, things in shop.things.items()
    }


@how(
    max_examples=ERASURES // 3,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a whole shop takes minutes and tells little more
)
@given(st.lists(IDS, min_size=2, max_size=4, unique=True), st.integers(0, 1000))
def test_what_is_left_of_the_others_is_what_was_there(shop, tmp_path_factory, shoppers, seed):
    shop.fill(shoppers, seed)
    assert shop.contents() == shop.remaining()
    check(shop, shoppers[0], tmp_path_factory.mktemp("redis") / "scratch")


def test_random_erasures_touch_nobody_else_and_leave_no_trace(shop, tmp_path):
    chance, done = random.Random(16), 0
    while done < ERASURES:
        unique = [f"{UNIQUE}{chance.getrandbits(64):x}" for _ in range(2)]
        shoppers = [*chance.sample(NAMES, 5), *unique]
        chance.shuffle(shoppers)
        shop.fill(shoppers, chance.random())
        while len(shoppers) > 1 and done < ERASURES:
            user = shoppers.pop()
            check(shop, user, tmp_path / "scratch" if done % 5 == 0 else None)
            done += 1
            if done % 50 == 0:
                print(f"{done:,} erasures", flush=True)
    print(f"{done:,} erasures: rows of others changed 0, traces of the person 0")
