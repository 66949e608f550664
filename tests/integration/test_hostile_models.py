"""Models that do harm when they score: each is contained, and others are served meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict

from prinz_enricher.client import Client, ServiceError
from tests.support.deadline import wait_until
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Service
from tests.support.worker_processes import runs, workers_of

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery-staple"  # noqa: S105 - made up
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "PRINZ_REGISTRY__PASSWORD",
    "DATABRICKS_TOKEN",
    "MY_TOKEN",
)

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.log_model(
    name="hostile", python_model="hostile.py", registered_model_name="hostile", pip_requirements=["mlflow"],
    signature=ModelSignature(Schema([ColSpec("string", "do")]), Schema([ColSpec("string", "y")])),
)
mlflow.MlflowClient().copy_model_version("models:/hostile/1", "innocent")
"""

MODEL = """
import mlflow, os, pathlib, signal, socket, subprocess, sys, time
from mlflow.pyfunc import PythonModel

HELD = []


def do(what):
    verb, _, argument = what.partition(" ")
    if verb == "sleep":
        time.sleep(float(argument))
    elif verb == "exit":
        os._exit(int(argument))
    elif verb == "abort":
        os.abort()
    elif verb == "leak":
        HELD.append(bytearray(int(argument)))
    elif verb == "print":
        print("SCORES printed by a model", flush=True)
        sys.__stdout__.write("SCORES printed by a model\\n")
        os.write(1, b"\\x00\\x01PRZ1 printed by a model\\n")
    elif verb == "fork":
        child = os.fork()
        return "twice" if argument == "twice" else str(child or os._exit(0))
    elif verb == "daemon":
        return str(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    elif verb == "environment":
        return repr(dict(os.environ))
    elif verb == "read":
        return pathlib.Path(argument).read_bytes().decode("latin-1")
    elif verb == "write":
        pathlib.Path(argument).write_text("harm")
    elif verb == "connect":
        host, port = argument.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    elif verb == "kill":
        os.kill(int(argument), signal.SIGKILL)
    return what


class Hostile(PythonModel):
    def predict(self, context, model_input, params=None):
        return [do(what) for what in model_input["do"]]


mlflow.models.set_model(Hostile())
"""


@pytest.fixture(scope="module")
def logged() -> Iterator[list[EventDict]]:
    """What the service logs."""
    with structlog.testing.capture_logs() as logs:
        yield logs


@pytest.fixture(scope="module")
def service(
    scratch_registry: RegistryWriter, tmp_path_factory: pytest.TempPathFactory, logged: list[EventDict]
) -> Iterator[Service]:
    """A service with secrets in its environment, that serves a hostile model and another one."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.py").write_text(MODEL)
    register(scratch_registry.url, REGISTER, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, SECRET)
        with own_service(
            scratch_registry.url,
            registry={"include": ["hostile", "innocent"]},
            workers={"memory_limit": 1 << 30},
        ) as service:
            yield service
    assert logged


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    """A client whose first calls have loaded both models."""
    with Client(service.address, timeout=LONG) as client:
        for name in ("hostile", "innocent"):
            assert client.score(name, [{"do": "nothing"}]).to_rows() == [{"y": "nothing"}]
        yield client


def ask(client: Client, what: str) -> str:
    """Have the hostile model do something; gives its answer, or the reason why there is none."""
    try:
        ((answer,),) = (row.values() for row in client.score("hostile", [{"do": what}]).to_rows())
    except ServiceError as error:
        # At its own deadline a client does not wait for the reason.
        return error.reason or error.code.name
    return str(answer)


def still_serves(client: Client) -> None:
    """See that both models score, the hostile one by the same worker or another."""
    assert client.score("innocent", [{"do": "hello"}]).to_rows() == [{"y": "hello"}]
    assert ask(client, "hello") == "hello"


def test_one_that_sleeps(client: Client, service: Service, logged: list[EventDict]) -> None:
    """The caller is told at its deadline; the worker is killed a little later, and replaced."""
    with Client(service.address, timeout=0.5) as hurried:
        assert ask(hurried, "sleep 30") == "DEADLINE_EXCEEDED"
    assert client.score("innocent", [{"do": "hello"}]).to_rows() == [{"y": "hello"}]
    wait_until(lambda: any(entry["event"] == "a worker hangs and is killed" for entry in logged))
    still_serves(client)


@pytest.mark.parametrize("what", ["exit 3", "abort"])
def test_one_that_ends_its_process(client: Client, what: str) -> None:
    """Two workers die of it, then its caller is told; nobody else notices."""
    assert ask(client, what) == "MODEL_ERROR"
    still_serves(client)


def test_one_that_takes_too_much_memory(client: Client) -> None:
    """An allocation beyond the limit fails in the model, and the worker goes on."""
    before = workers_of()
    assert ask(client, f"leak {2 << 30}") == "MODEL_ERROR"
    still_serves(client)
    assert workers_of() == before


def test_one_that_prints(client: Client, logged: list[EventDict]) -> None:
    """What it prints is in the log, and disturbs nothing."""
    assert ask(client, "print") == "print"
    wait_until(lambda: any("PRZ1 printed by a model" in str(entry.get("line")) for entry in logged))
    still_serves(client)


def test_one_that_forks(client: Client) -> None:
    """A child that comes back from the call answers nobody, and the calls after it get their own answers."""
    assert ask(client, "fork twice") == "twice"
    for number in range(20):
        assert ask(client, f"number {number}") == f"number {number}"
    assert int(ask(client, "fork")) > 0
    still_serves(client)


def test_one_that_leaves_a_process_behind(client: Client) -> None:
    """What a model started ends with its worker, in a session of its own too."""
    daemon = int(ask(client, "daemon"))
    assert runs(daemon)
    assert ask(client, "exit 9") == "MODEL_ERROR"
    wait_until(lambda: not runs(daemon))


def test_one_that_looks_for_secrets(client: Client) -> None:
    """None of the service's is in the worker's environment, nor can it read the service's."""
    told = ask(client, "environment")
    assert "TMPDIR" in told
    assert SECRET not in told
    assert ask(client, f"read /proc/{os.getpid()}/environ") == "MODEL_ERROR"
    still_serves(client)


def test_one_that_writes_where_it_should_not(client: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Files outside of its own folder are not written."""
    target = tmp_path_factory.mktemp("precious") / "file"
    assert ask(client, f"write {target}") == "MODEL_ERROR"
    assert not target.exists()
    assert ask(client, "write mine") == "write mine"
    still_serves(client)


def test_one_that_calls_home(client: Client, service: Service) -> None:
    """A worker has no network."""
    assert ask(client, f"connect {service.address}") == "MODEL_ERROR"
    still_serves(client)


def test_one_that_kills_the_service(client: Client) -> None:
    """A worker can't signal the process that started it."""
    assert ask(client, f"kill {os.getpid()}") == "MODEL_ERROR"
    still_serves(client)
