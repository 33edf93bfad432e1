"""Three nodes of a Redis cluster: what Feast's own calls make of it, and what ours refuse."""

import socket
import subprocess
import time

import pyarrow as pa
import pytest
import redis
from feast import FeatureService

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.stores.online.redis_server import find_redis_server
from tests.shop import entity
from tests.stores.small_repo import Repo, at, times, view, write_table

NODES, SLOTS = 3, 16_384
PATIENCE = 60


def free_ports():
    """Free themselves, and with the bus port that each node opens 10,000 above."""
    found = []
    while len(found) < NODES:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            if probe.getsockname()[1] < 55_000:
                found.append(probe.getsockname()[1])
    return found


@pytest.fixture
def cluster(tmp_path):
    ports, nodes = free_ports(), []
    for port in ports:
        (tmp_path / str(port)).mkdir()
        nodes.append(
            subprocess.Popen(
                [
                    find_redis_server(),
                    "--port",
                    str(port),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--cluster-enabled",
                    "yes",
                ],
                cwd=tmp_path / str(port),
                stdout=subprocess.DEVNULL,
            )
        )
    clients = [redis.Redis(port=port, retry_on_error=[redis.ConnectionError]) for port in ports]
    try:
        until = time.monotonic() + PATIENCE
        for number, client in enumerate(clients):
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < until
                    time.sleep(0.1)
            mine = range(number * SLOTS // NODES, (number + 1) * SLOTS // NODES)
            client.execute_command("CLUSTER", "ADDSLOTS", *mine)
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[number])
        while not all("ok" in str(c.cluster("INFO")["cluster_state"]) for c in clients):
            assert time.monotonic() < until
            time.sleep(0.1)
        yield ports, clients
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(PATIENCE)


def test_feast_fills_and_reads_a_cluster_and_our_reader_says_that_it_cannot(cluster, tmp_path):
    ports, clients = cluster
    users = [f"u{i}" for i in range(300)]
    path = write_table(
        tmp_path / "stats" / "rows.parquet",
        {
            "user_id": pa.array(users),
            "event_timestamp": times([1] * 300),
            "value": pa.array(range(300)),
        },
    )
    stats = view(path)
    service = FeatureService(name="service", features=[stats])
    online = {
        "type": "nextbuy.stores.online.NextbuyOnlineStore",
        "redis_type": "redis_cluster",
        "connection_string": ",".join(f"127.0.0.1:{port}" for port in ports),
    }
    store = Repo(tmp_path, [entity(), stats, service], online_store=online).store
    store.materialize(at(0), at(2))
    assert all(client.dbsize() > 50 for client in clients)
    found = store.get_online_features(["stats:value"], {"user_id": users}).to_dict()
    assert found["value"] == list(range(300))
    with pytest.raises(NextbuyError, match="Redis cluster"):
        OnlineReader(store, "service")
