"""containers/kubernetes without a cluster: its shape, its rules, what it shares with compose."""

import kubernetes_validate
import pytest
import yaml

from bento.settings import ServiceSettings
from nextbuy.settings import PROJECT

FOLDER = PROJECT / "containers" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS = [
    document
    for file in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / file).read_text())
]
SERVICES = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]


def named(kind):
    return {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] == kind}


def pods():
    for name, deployment in named("Deployment").items():
        yield name, deployment["spec"]["template"]["spec"]
    for name, job in named("CronJob").items():
        yield name, job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: f"{o['kind']} {o['metadata']['name']}")
def test_every_object_keeps_its_schema(thing):
    kubernetes_validate.validate(thing, "1.34", strict=True)


def test_every_file_is_applied():
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_a_pod_is_bounded_unprivileged_and_as_in_compose(name, pod):
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}
    twin = SERVICES["service" if name == "nextbuy-service" else "worker"]
    assert twin["image"].split(":")[0] == container["image"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    place = "FEAST_FS_YAML_FILE_PATH"
    assert given[place] == twin["environment"][place]


def test_settings_are_known_and_hold_no_secret():
    settings = named("ConfigMap")["nextbuy"]["data"]
    prefix = "NEXTBUY_SERVICE_"
    known = {prefix + field.upper() for field in ServiceSettings.model_fields}
    assert {name for name in settings if name.startswith(prefix)} <= known
    assert not [name for name in settings if "KEY" in name or "PASSWORD" in name or "URL" in name]
    secret = {"REDIS_URL", "NEXTBUY_REGISTRY_URL", f"{prefix}API_KEYS"}
    text = "".join(file.read_text() for file in FOLDER.glob("*.yaml"))
    assert all(name in text for name in secret)  # said where they come from


def test_the_jobs_that_monitor_find_the_service():
    (port,) = named("Service")["nextbuy-service"]["spec"]["ports"]
    assert port["port"] == 80
    found = {"name": "NEXTBUY_SERVICE_URL", "value": "http://nextbuy-service"}
    for name in ("nextbuy-daily", "nextbuy-monitor"):
        (container,) = dict(pods())[name]["containers"]
        assert found in container["env"]


def test_the_verbs_of_the_jobs_are_verbs():
    from nextbuy.cli import daily  # noqa: F401
    from nextbuy.cli.app import app

    verbs = {c.name or c.callback.__name__ for c in app.registered_commands}
    for _, pod in pods():
        arguments = pod["containers"][0].get("args", [])
        if arguments and arguments[0] == "nextbuy":
            assert arguments[1] in verbs


def test_only_the_labels_and_volumes_that_there_are():
    claims = set(named("PersistentVolumeClaim"))
    for _, pod in pods():
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
    for name, service in named("Service").items():
        labels = named("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
