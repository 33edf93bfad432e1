"""docker-compose.yml without an engine: its shape, its rules, and what its services stand on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bento.export import BASE_IMAGE
from bento.settings import ServiceSettings
from nextbuy.settings import PROJECT

BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
EXAMPLE = PROJECT / "containers" / "env.example"


def test_it_keeps_the_schema_of_compose_files():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, PROJECT / "docker-compose.yml"], check=True)


def test_our_dockerfile_passes_the_lint_and_builds_on_the_services_base():
    dockerfile = PROJECT / "containers" / "Dockerfile"
    subprocess.run([BIN / "hadolint", "--ignore", "DL3008", dockerfile], check=True)
    assert f"FROM {BASE_IMAGE}\n" in dockerfile.read_text()


def test_every_part_of_the_platform_is_a_service():
    assert set(SERVICES) == {"redis", "postgres", "mlflow", "worker", "service", "dashboard"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_watched_bounded_restarted_and_kept_in(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"])
    if "build" not in service and not service["image"].startswith("nextbuy-"):
        assert not service["image"].endswith(":latest")
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (PROJECT / source).exists()


def test_what_a_service_waits_for_can_become_healthy():
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition["condition"] in ("service_healthy", "service_started")
            assert "healthcheck" in SERVICES[name]


def test_every_variable_is_in_the_example_and_no_secret_has_a_default():
    text = (PROJECT / "docker-compose.yml").read_text()
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and line[0] != "#"]
    example = dict(line.split("=", 1) for line in lines)
    used = {}
    for name, rest in re.findall(r"\$\{(\w+)(:[-?][^}]*)?\}", text):
        used.setdefault(name, set()).add(rest)
    assert used.keys() == example.keys()
    secrets = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "NEXTBUY_SERVICE_API_KEYS"}
    for name in secrets:
        assert example[name] == ""
        assert all(rest.startswith(":?") for rest in used[name])
    for name in used.keys() - secrets:
        assert used[name] == {f":-{example[name]}"}


def test_the_services_settings_in_the_example_are_valid(monkeypatch):
    monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", "a-key-of-the-shop-for-tests")
    for name in re.findall(r"^(NEXTBUY_SERVICE_\w+)=(?=.)", EXAMPLE.read_text(), re.M):
        value = re.search(rf"^{name}=(.*)$", EXAMPLE.read_text(), re.M)[1]
        monkeypatch.setenv(name, value)
    found = ServiceSettings()
    assert found.keys
    assert found.workers == 2
    assert found.rate_limit == 200
