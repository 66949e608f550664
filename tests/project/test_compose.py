"""The containers: what docker-compose.yaml, the Dockerfile and .dockerignore promise."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yaml").read_text()
PROJECT: dict[str, Any] = yaml.safe_load(COMPOSE)
SERVICES: dict[str, Any] = PROJECT["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(\w+)\}")


def stages() -> dict[str, str]:
    """Return the Dockerfile's stages by their names."""
    parts = re.split(r"^FROM (?=\S+ AS )", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {part.split()[2]: part for part in parts}


def variables(service: str) -> dict[str, str]:
    """Return the environment of a service."""
    return {name: str(value) for name, value in SERVICES[service].get("environment", {}).items()}


def is_job(service: str) -> bool:
    """Tell whether others wait for a service to end."""
    needs = [other.get("depends_on", {}).get(service, {}) for other in SERVICES.values()]
    return any(need.get("condition") == "service_completed_successfully" for need in needs)


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_in_the_file(service: str) -> None:
    """What is secret comes from files: no variable of a service is one, nor holds a URL with one."""
    for name, value in variables(service).items():
        secret = re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|ACCESS_KEY", name)
        assert not secret or value.startswith("/run/secrets/"), name
        assert not re.search(r"://[^/\s]*:[^/\s]*@", value), name


def test_secrets_are_files_of_the_environment() -> None:
    """Secrets come from .environment/secrets, and each service has those that its variables name."""
    files = [one["file"] for one in PROJECT["secrets"].values()]
    files += [file["path"] for one in SERVICES.values() for file in one.get("env_file", [])]

    assert files
    assert all(file.startswith("./.environment/secrets/") for file in files)
    for service, one in SERVICES.items():
        named = {Path(value).name for value in variables(service).values() if value.startswith("/run/secrets/")}
        assert named == set(one.get("secrets", [])), service


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_tells_its_health(service: str) -> None:
    """A service has a health check, in the file or in its image, and starts again; or it is a job."""
    one = SERVICES[service]
    target = one.get("build", {}).get("target", "")
    checked = "healthcheck" in one or (target and "\nHEALTHCHECK " in stages()[target])

    assert checked != is_job(service)
    assert one["restart"] == ("no" if is_job(service) else "unless-stopped")


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_guarded(service: str) -> None:
    """No service has capabilities, or can gain privileges."""
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert SERVICES[service]["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in SERVICES[service]
    assert "privileged" not in SERVICES[service]


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_reaches_the_host(service: str) -> None:
    """No service shares a namespace or a device of the host, has Docker's socket, or asks for root."""
    one = SERVICES[service]
    shared = {"cgroup", "device_cgroup_rules", "devices", "ipc", "network_mode", "pid", "userns_mode", "uts"}

    assert not one.keys() & shared
    assert not any("docker.sock" in volume for volume in one.get("volumes", []))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", one.get("user", "1:1"))


@pytest.mark.parametrize("service", ["aws-mlflow", "prinz-enricher", "proxy"])
def test_roots_are_read_only(service: str) -> None:
    """The service, the proxy and the bucket's server write to volumes and to memory alone."""
    assert SERVICES[service]["read_only"] is True


def test_images_are_pinned() -> None:
    """Images have the version that .env says, and what is built stands on a version of Python."""
    images = [one["image"] for one in SERVICES.values() if "image" in one]

    assert all(re.fullmatch(r"[\w./-]+:v?\$\{\w+_VERSION\}(-\w+)?", image) for image in images), images
    assert all(("image" in one) != ("build" in one) for one in SERVICES.values())
    for name, stage in stages().items():
        base = stage.split()[0]
        assert base in stages() or re.fullmatch(r"(python:3|rust:1)\.\d+-slim-\w+", base), name


def test_ports_come_from_the_settings() -> None:
    """Each published port, and where it listens, is a variable."""
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]

    assert len(set(ports)) == len(ports) > 0
    assert all(re.fullmatch(r"\$\{LISTEN\}:\$\{\w+_PORT\}:\d+", port) for port in ports), ports


def test_each_variable_is_in_the_settings() -> None:
    """Every variable of the file has a value in .env."""
    known = set(re.findall(r"^(\w+)=.", (ROOT / ".env").read_text(), flags=re.MULTILINE))
    # With `$$` it would be the container's.
    used = set(VARIABLE.findall(COMPOSE.replace("$$", "")))

    assert used <= known
    assert "$" not in VARIABLE.sub("", COMPOSE)


def test_what_is_mounted_is_there() -> None:
    """Each file and folder that a service mounts is in the repository, and can't be written to."""
    volumes = [volume.split(":") for one in SERVICES.values() for volume in one.get("volumes", [])]

    for source, _, *mode in volumes:
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], source
        else:
            assert source in PROJECT["volumes"]


def test_images_do_not_run_as_root() -> None:
    """Both images end as a user with a number, which Kubernetes can tell from root."""
    for target in ("enricher", "mlflow"):
        users = re.findall(r"^USER (.*)$", stages()[target], flags=re.MULTILINE)
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]), target


def test_images_do_not_own_their_code() -> None:
    """What an image runs belongs to root, so that its user can't change it."""
    assert "--chown" not in DOCKERFILE
    assert not re.search(r"\bch(own|mod)\b", DOCKERFILE)


def test_service_can_write_its_cache() -> None:
    """The service's root can't be written to; its home, where models are kept, is a volume."""
    home = re.search(r"--home-dir (\S+)", stages()["enricher"])

    assert home is not None
    assert f"\nVOLUME {home[1]}\n" in stages()["enricher"]
    assert f"models-cache:{home[1]}" in SERVICES["prinz-enricher"]["volumes"]
    assert SERVICES["prinz-enricher"]["read_only"] is True


@pytest.mark.parametrize("name", [".git", ".venv", ".environment", ".env", ".demo", "tests"])
def test_builds_get_no_more_than_they_need(name: str) -> None:
    """What is secret, large, or of no use to a build is not sent to it."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatchcase(name, line.removeprefix("!")):
            kept = line.startswith("!")

    assert not kept


def test_builds_get_what_they_copy() -> None:
    """All that the Dockerfile copies from the repository is there, and is let through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from|<<)", line)]

    for path in (Path(source) for sources in copied for source in sources):
        assert (ROOT / path).exists(), path
        assert {str(one) for one in (path, *path.parents)} & let_through, path


def test_proxy_gets_every_host() -> None:
    """Each variable of the proxy's rules is given, and each host is a service that the proxy waits for."""
    template = (ROOT / "deploy" / "proxy" / "default.conf.template").read_text()
    given = variables("proxy")

    assert set(VARIABLE.findall(template)) == given.keys()
    # It looks that one up when it is asked for, since that one waits for it.
    later = given.pop("ENRICHER").split(":")[0]
    hosts = {value.split(":")[0] for value in given.values() if ":" in value}
    assert hosts == SERVICES["proxy"]["depends_on"].keys()
    assert "proxy" in SERVICES[later]["depends_on"]


def test_designer_finds_the_api() -> None:
    """The designer reads the document where the proxy serves the HTTP API, once the service is healthy."""
    settings = (ROOT / "deploy" / "nussknacker" / "designer.conf").read_text()

    assert set(re.findall(r"http://(\S+?)[/\"]", settings)) == {f"proxy:{variables('proxy')['API_LISTEN']}"}
    assert SERVICES["designer"]["depends_on"]["prinz-enricher"]["condition"] == "service_healthy"


def test_nobody_waits_for_who_waits_for_him() -> None:
    """Services can be put in an order in which each comes after those that it waits for."""
    left = {service: set(one.get("depends_on", {})) for service, one in SERVICES.items()}

    while ready := {service for service, needs in left.items() if not needs}:
        left = {service: needs - ready for service, needs in left.items() if service not in ready}

    assert left == {}


def test_models_are_served_where_the_proxy_looks() -> None:
    """The model servers listen on the ports that the proxy is told, and the health check asks them all."""
    commands = re.findall(
        r"^command = python \S+/when_registered\.py (\S+) 1 0\.0\.0\.0 (\d+)$",
        (ROOT / "deploy" / "models" / "supervisord.conf").read_text(),
        flags=re.MULTILINE,
    )
    given = variables("proxy")

    assert dict(commands) == {
        "MLF-ElasticnetWineModel-1": given["WINE_1"].removeprefix("models:"),
        "MLF-ElasticnetWineModel-2": given["WINE_2"].removeprefix("models:"),
        "MLF-FraudDetection-3": given["FRAUD_3"].removeprefix("models:"),
    }
    assert f"({', '.join(port for _, port in commands)})" in SERVICES["models"]["healthcheck"]["test"][-1]


def test_mlflow_lets_its_callers_in() -> None:
    """MLflow knows by which names the clients in here and on this machine call it."""
    hosts = variables("mlflow-server")["ALLOWED_HOSTS"].split(",")
    registries = {variables(service).get("MLFLOW_TRACKING_URI", "") for service in SERVICES} - {""}

    assert registries == {"http://proxy:8080"}
    assert {"proxy:8080", "localhost:${PROXY_PORT}", "127.0.0.1:${PROXY_PORT}"} <= set(hosts)
