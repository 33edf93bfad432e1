"""The services of docker-compose.yml as plain processes: their commands, their environment.

Only what a network and volumes of containers would give is replaced: host names, ports, folders.
Postgres runs where the machine has it; elsewhere SQLite stands in, and the test says so.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from nextbuy.network import free_port
from nextbuy.settings import PROJECT
from nextbuy.stores.online.redis_server import find_redis_server
from tests.processes import end_group

SERVICES = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
BIN = Path(sys.executable).parent
KEY = "a-key-of-the-shop-for-tests"
SECRETS = {
    "POSTGRES_PASSWORD": "a-password-of-postgres",
    "REDIS_PASSWORD": "a-password-of-redis",
    "NEXTBUY_SERVICE_API_KEYS": KEY,
}
WAIT = 300


class Platform:
    """Starts services of the compose file on this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {"redis": free_port(), "postgres": free_port(), "mlflow": free_port(),
                      "service": free_port(), "dashboard": free_port()}  # fmt: skip
        lines = (PROJECT / "containers" / "env.example").read_text().splitlines()
        self.variables = dict(ln.split("=", 1) for ln in lines if ln and ln[0] != "#") | SECRETS
        self.stack = ExitStack()
        self.sqlite = postgres_binaries() is None

    def here(self, text):
        """A text of the compose file, as it is on this machine."""
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda m: self.variables[m[1]], text)
        if self.sqlite:
            text = re.sub(
                r"postgresql\+psycopg://\S+/(\w+)", rf"sqlite:///{self.folder}/\1.db", text
            )
        for name, inside in (("redis", 6379), ("postgres", 5432), ("mlflow", 5000)):
            text = text.replace(f"@{name}:{inside}", f"@127.0.0.1:{self.ports[name]}")
            text = text.replace(f"//{name}:{inside}", f"//127.0.0.1:{self.ports[name]}")
        for place in ("/home/bentoml/bento/src/", "/app/"):
            text = text.replace(place, f"{PROJECT}/")
        return text.replace("$$", "$")

    def environment(self, name):
        given = SERVICES[name].get("environment", {})
        there = {key: self.here(str(value)) for key, value in given.items()}
        if "NEXTBUY_DATA" in there:
            there["NEXTBUY_DATA"] = str(self.folder / "data")
        path = f"{BIN}:{find_redis_server().parent}:{os.environ['PATH']}"
        home = {"BENTOML_HOME": str(self.folder / "bentoml"), "PATH": path}
        return os.environ | home | there

    def start(self, name, command):
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=self.environment(name),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.stack.callback(end_group, process)
        self.stack.callback(log.close)
        return process

    def command(self, name, **changes):
        given = [self.here(part) for part in SERVICES[name]["command"]]
        return [changes.get(part, part) for part in given]

    def run(self, name, *command):
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=self.environment(name),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def until_healthy(self, name, process, inside=None):
        """Run the service's own health check until it passes."""
        _, *test = SERVICES[name]["healthcheck"]["test"]
        test = [self.here(part) for part in test]
        if inside:
            test = [part.replace(f":{inside}/", f":{self.ports[name]}/") for part in test]
        if len(test) == 1:
            test = ["sh", "-c", *test]
        deadline = time.monotonic() + WAIT
        while subprocess.run(test, env=self.environment(name), check=False, stdout=-3,
                             stderr=-3).returncode:  # fmt: skip
            log = (self.folder / f"{name}.log").read_text()[-3000:]
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.5)


def postgres_binaries():
    found = shutil.which("postgres")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextmanager
def postgres(platform):
    """A server with the two databases, as the image makes them from containers/postgres.sql."""
    binaries = postgres_binaries()
    # It refuses to run as root and reads nothing of root's own folders.
    who = {"user": "postgres"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="nextbuy-postgres-"))
    try:
        password = folder / "password"
        password.write_text(SECRETS["POSTGRES_PASSWORD"])
        if who:
            for path in (folder, password):
                shutil.chown(path, "postgres")
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "--pgdata", data, "--username", "nextbuy", "--pwfile", password,
             "--auth", "scram-sha-256"],
            check=True, cwd=folder, stdout=subprocess.DEVNULL, **who,
        )  # fmt: skip
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-k", folder,
             "-p", str(platform.ports["postgres"])],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who,
        )  # fmt: skip
        try:
            import psycopg

            url = f"host=127.0.0.1 port={platform.ports['postgres']} user=nextbuy dbname=postgres"
            deadline = time.monotonic() + WAIT
            while True:
                try:
                    connection = psycopg.connect(
                        url, password=SECRETS["POSTGRES_PASSWORD"], autocommit=True
                    )
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            with connection:
                for line in (PROJECT / "containers" / "postgres.sql").read_text().splitlines():
                    if not line.startswith("--"):
                        connection.execute(line)
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    found = Platform(tmp_path_factory.mktemp("platform"))
    with found.stack:
        if not found.sqlite:
            found.stack.enter_context(postgres(found))
        yield found


def test_the_platform_of_the_compose_file_answers(platform):
    if platform.sqlite:
        print("no Postgres on this machine: SQLite stands in")
    *shell, line = platform.command("redis")
    place = f" --port {platform.ports['redis']} --bind 127.0.0.1 --dir {platform.folder}"
    redis = platform.start("redis", [*shell, line + place])
    port = platform.ports["mlflow"]
    changes = {"0.0.0.0": "127.0.0.1", "5000": str(port), "/mlflow": f"{platform.folder}/mlflow"}
    mlflow = platform.start("mlflow", platform.command("mlflow", **changes))
    platform.until_healthy("mlflow", mlflow, 5000)
    assert redis.poll() is None

    verbs = (
        ("simulate", "--shoppers", "150", "--days", "120"),
        ("ingest", f"{platform.folder}/data/raw/simulated/*.parquet", "--source", "simulated"),
        *(("sessionize",), ("features",), ("apply",), ("train",)),
    )
    for verb in verbs:
        platform.run("worker", BIN / "nextbuy", *verb)
    assert not (platform.folder / "data" / "registry.db").exists()
    assert not (platform.folder / "data" / "mlflow" / "mlflow.db").exists()
    assert list((platform.folder / "mlflow").rglob("MLmodel"))
    shown = platform.folder / "materialized"
    loop = [part.replace("/tmp/materialized", str(shown)) for part in platform.command("worker")]
    worker = platform.start("worker", loop)
    deadline = time.monotonic() + WAIT
    while not shown.exists():
        assert worker.poll() is None
        assert time.monotonic() < deadline, (platform.folder / "worker.log").read_text()
        time.sleep(0.5)

    export = (
        "from bento.export import export_champion\n"
        "from nextbuy.settings import Settings\n"
        "print(export_champion(Settings()))"
    )
    tag = platform.run("worker", sys.executable, "-c", export).split()[-1]
    command = [BIN / "bentoml", "serve", "bento.service:Nextbuy", "--host", "127.0.0.1"]
    service = platform.start("service", [*command, "--port", str(platform.ports["service"])])
    port = str(platform.ports["dashboard"])
    changes = {"0.0.0.0": "127.0.0.1", "8501": port}
    dashboard = platform.start("dashboard", platform.command("dashboard", **changes))
    platform.until_healthy("service", service, 3000)
    platform.until_healthy("dashboard", dashboard, 8501)

    url = f"http://127.0.0.1:{platform.ports['service']}/predict"
    shopper = platform.run(
        "worker",
        sys.executable,
        "-c",
        "from nextbuy.cli.demo import _recent_shopper as f\n"
        "from nextbuy.settings import Settings as S\nprint(f(S()))",
    ).split()[-1]
    assert httpx.post(url, json={"user_id": shopper}, timeout=60).status_code == 401
    answer = httpx.post(url, json={"user_id": shopper}, headers={"X-Api-Key": KEY}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == tag
    assert answer.json()["items"]
    assert not answer.json()["cold_start"]
    for process in (redis, mlflow, worker, service, dashboard):
        assert process.poll() is None
    log = "".join(file.read_text() for file in platform.folder.glob("*.log"))
    assert not [name for name, secret in SECRETS.items() if secret in log]
