"""Service and Redis killed in the middle of a replay: nothing acknowledged is missing, no skew."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pyarrow.parquet as pq

from bento.export import export_deployment
from bento.serve import _await_ready, _start, _stop, deployment_file
from generators.replay import replay
from monitoring.parity import parity
from nextbuy.live.event_store import LiveStore
from nextbuy.network import free_port
from tests.bento import live_shop
from tests.bento.test_live import worked_off
from tests.shop import environment


class Service:
    """A server whose processes can be killed, all at once, and started again on its port."""

    def __init__(self, settings):
        self.settings, self.port = settings, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        export_deployment(settings, False).write(deployment_file(settings, self.port))
        self.log = settings.data / "service.log"

    def start(self):
        with self.log.open("ab") as output:
            self.process = _start(self.settings, "127.0.0.1", self.port, 1, output)
        _await_ready(self.process, self.url, self.log)

    def kill(self):
        found = psutil.Process(self.process.pid)
        # BentoML's workers have sessions of their own; the live worker is a child of theirs.
        for process in (found, *found.children(recursive=True)):
            process.kill()
        self.process.wait()


def test_killed_in_the_middle_of_a_replay(tmp_path):
    with environment(tmp_path, NEXTBUY_SERVICE_TIME_BUDGET_MS="5000") as settings:
        files = live_shop.build(settings, last=4)
        live_shop.with_model(settings)
        total = sum(pq.read_metadata(file).num_rows for file in files)
        service, sent, done = Service(settings), [0], []

        def play():
            progress = lambda count, _: sent.__setitem__(0, count)  # noqa: E731
            done.append(replay(files, service.url, predict=True, batch=5, progress=progress))

        service.start()
        try:
            player = threading.Thread(target=play)
            player.start()
            reach(sent, total // 4, player)
            service.kill()
            service.start()
            reach(sent, total // 2, player)
            redis = int((settings.redis / "redis.pid").read_text())
            os.kill(redis, signal.SIGKILL)
            player.join()
            (report,) = done
            assert report.sent == total
            assert not report.refused
            worked_off(settings)
            with LiveStore(settings) as store:
                ids = {i for (i,) in store.sql.execute("SELECT event_id FROM events")}
            for file in files:
                assert ids.issuperset(pq.read_table(file)["event_id"].to_pylist())
            time.sleep(1)  # the log writes every 0.2 s
            found = parity(settings)
            assert found.mismatches == 0, str(found)
            assert found.values > 20_000
        finally:
            with suppress(ProcessLookupError):
                _stop(service.process)


def reach(sent, count, player):
    while sent[0] < count:
        assert player.is_alive(), "the replay ended early"
        time.sleep(0.05)
