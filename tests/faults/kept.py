"""What a data folder holds, each part as one digest; raises where a part cannot be read whole."""

import hashlib
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.settings import Settings


def state():
    """Part -> digest. Equal digests are equal contents, whenever and however they came about."""
    settings = Settings()
    found = {"log": _log(settings), **_tables(settings), "registry": _registry(settings)}
    found |= {"scores": _scores(settings), "alerts": _alerts(settings), "backup": _backup(settings)}
    return found | _models(settings) | {"redis": _redis(settings)}


def take_in_live_events():
    """As the service would: two events of three shoppers, an hour after the newest."""
    from nextbuy.connection import duckdb_connection
    from nextbuy.live.event_store import EventRow, LiveStore
    from nextbuy.versioned_table import files

    settings = Settings()
    with duckdb_connection(settings) as connection:
        found = connection.execute(
            f"WITH events AS (FROM read_parquet('{files(settings.events)}')) "
            "SELECT user_id, max(item_id), epoch_us((SELECT max(event_time) FROM events)) "
            "FROM events WHERE item_id IS NOT NULL GROUP BY user_id ORDER BY user_id LIMIT 3"
        ).fetchall()
    rows = [
        EventRow(f"live-{user}-{n}", user, newest + 3_600_000_000 + n, "view", item)
        for user, item, newest in found
        for n in range(2)
    ]
    with LiveStore(settings) as store:
        return store.append(rows, found[0][2] + 7_200_000_000)


def _digest(*parts):
    total = hashlib.md5(usedforsecurity=False)
    for part in parts:
        total.update(part if isinstance(part, bytes) else str(part).encode())
        total.update(b"\0")
    return total.hexdigest()


def _log(settings):
    files = sorted((settings.raw / "simulated").glob("*.parquet"))
    return _digest(*(part for file in files for part in (file.name, file.read_bytes())))


def _tables(settings):
    from nextbuy.versioned_table import file_digest, manifest

    named = [settings.truth, settings.events, settings.sessions, settings.labels]
    found = {}
    for table in [*named, *sorted(settings.features.glob("*"))]:
        if (written := manifest(table)) is not None:
            for day, digest in written.days.items():
                assert file_digest(table / f"day={day}" / "part-0.parquet") == digest
            found[table.name] = written.fingerprint
    return found


def _registry(settings):
    from feast import FeatureStore

    if not settings.registry.exists():
        return None
    store = FeatureStore(repo_path=str(settings.feature_repo))
    views = [
        (view.name, view.ttl, sorted(f"{field.name} {field.dtype}" for field in view.schema))
        for view in store.list_feature_views()
    ]
    services = [
        (service.name, sorted(f"{p.name} {f.name}" for p in projections for f in p.features))
        for service in store.list_feature_services()
        for projections in [service.feature_view_projections]
    ]
    return _digest(
        *sorted(views), *sorted(services), *sorted(e.name for e in store.list_entities())
    )


def _models(settings):
    from nextbuy.models import registry

    if not (settings.data / "mlflow" / "mlflow.db").exists():
        return {}
    client, found = registry.client(settings), {}
    for alias in ("champion", "challenger"):
        if registry.version_of(client, alias) is not None:
            booster = registry.load_alias(settings, alias).booster
            native = booster.native
            is_lightgbm = booster.contract.family == "lightgbm"
            text = native.model_to_string() if is_lightgbm else bytes(native.save_raw("json"))
            found[alias] = _digest(text, booster.contract.model_dump_json())
    return found


def _redis(settings):
    import redis

    from nextbuy.stores.online.redis_server import running_redis

    if not settings.redis.is_dir():
        return None
    with running_redis(settings) as url, redis.Redis.from_url(url) as client:
        found = []
        for key in sorted(client.scan_iter(count=1000)):
            if client.type(key) == b"hash":
                found += [key, *sorted(client.hgetall(key).items())]
            else:
                found += [key, client.dump(key)]
        return _digest(*found)


def _scores(settings):
    latest = settings.data / "scores" / "latest"
    if not latest.exists():
        return None
    return _digest(*(file.read_bytes() for file in sorted(latest.glob("*.parquet"))))


def _alerts(settings):
    file = settings.reports / "alerts.json"
    if not file.exists():
        return None
    return _digest(*((a["name"], a["value"]) for a in json.loads(file.read_text())))


def _backup(settings):
    archive = settings.data.parent / "kept.tar.gz"
    if not archive.exists():
        return None
    with tarfile.open(archive) as whole:
        members = {m.name: whole.extractfile(m).read() for m in whole if m.isfile()}
    (redis,) = (name for name in members if name.endswith("redis.parquet"))
    # Redis gives its keys, and a hash its fields, in an order of its own after each start.
    keys = pq.read_table(pa.BufferReader(members.pop(redis)), columns=["key"])["key"]
    return _digest(*members.values(), *sorted(keys.to_pylist()))


def empty_redis():
    """Take everything from it, as a restart without its dump would; how many keys that was."""
    import redis

    from nextbuy.stores.online.redis_server import running_redis

    with running_redis(Settings()) as url, redis.Redis.from_url(url) as client:
        count = client.dbsize()
        client.flushall()
        return count
