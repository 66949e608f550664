"""`prinz-enricher serve` as a process of its own: its size, its start without a registry, its end."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.client.service_error import service_error
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from tests.support.processes import children, is_there, resident_mb
from tests.support.running_service import Service, refused
from tests.support.script import run_script
from tests.support.serve_process import serve

FRAUD = "MLF-FraudDetection-3"


def loaded_libraries(pid: int) -> str:
    """Return what is mapped into a process."""
    return Path(f"/proc/{pid}/maps").read_text()


def test_size_and_purity(service: Service) -> None:
    """The front holds under 120 MB after scoring with a worker, and no ML library is mapped into it."""
    with serve("--registry", service.registry) as front, Client(front.address) as client:
        for _ in range(200):
            client.score(FRAUD, EXAMPLES[FRAUD] * 100)

        assert resident_mb(front.process.pid) < 120
        assert not re.search("/(mlflow|pandas|sklearn|scipy)/", loaded_libraries(front.process.pid))
        assert front.end() == 0


def test_threads_take_turns(service: Service) -> None:
    """Every thread of the service, and its workers, go on until they wait for something."""
    with serve("--registry", service.registry) as front, Client(front.address) as client:
        client.score(FRAUD, EXAMPLES[FRAUD])
        pids = [front.process.pid, *children(front.process.pid)]
        threads = [int(folder.name) for pid in pids for folder in Path(f"/proc/{pid}/task").iterdir()]
        kept = [thread for thread in threads if os.sched_getscheduler(thread) != os.SCHED_BATCH]
        # Some libraries start a thread when they are imported, which serves no calls.
        assert len(kept) < len(threads) / 4
        assert front.process.pid not in kept
        assert not set(children(front.process.pid)) & set(kept)


def test_sigterm_drains(service: Service) -> None:
    """At SIGTERM what was accepted is answered, workers end, and the exit code is 0."""
    with serve("--registry", service.registry) as front, Client(front.address) as client:
        client.score(FRAUD, EXAMPLES[FRAUD])
        workers = children(front.process.pid)
        outcomes: list[str] = []
        asked = threading.Barrier(10)

        def list_on() -> None:
            # Without the client, which tries again elsewhere, and in the end can't connect.
            with grpc.insecure_channel(front.address) as channel:
                list_models = enricher_service_pb2_grpc.EnricherServiceStub(channel).ListModels  # type: ignore[no-untyped-call]  # generated
                asked.wait()
                try:
                    while True:
                        list_models(pb.ListModelsRequest(), timeout=30)
                except grpc.RpcError as error:
                    outcomes.append(service_error(error).reason)

        def score_on() -> None:
            with Client(front.address) as own:
                own.score(FRAUD, EXAMPLES[FRAUD])
                asked.wait()
                try:
                    while True:
                        own.score(FRAUD, EXAMPLES[FRAUD] * 50)
                        outcomes.append("scored")
                except ServiceError as error:
                    outcomes.append(error.reason or error.code.name)

        threads = [threading.Thread(target=score_on) for _ in range(8)] + [threading.Thread(target=list_on)]
        for thread in threads:
            thread.start()
        asked.wait()

        code = front.end()

        for thread in threads:
            thread.join(timeout=30)
        assert code == 0
        assert workers
        assert not [pid for pid in workers if is_there(pid)]
        # A call is answered, or it was never accepted; none is lost half-way.
        assert set(outcomes) <= {"scored", "SHUTTING_DOWN", "UNAVAILABLE"}
        assert "SHUTTING_DOWN" in outcomes


def test_sigterm_to_any_thread(service: Service) -> None:
    """SIGTERM ends the service whichever of its threads the kernel gives it to; the main one would sleep on."""
    with serve("--registry", service.registry) as front:
        number = front.process.pid
        with Client(front.address, timeout=120.0) as client:
            client.score(FRAUD, EXAMPLES[FRAUD])
        threads = {int(entry.name) for entry in Path(f"/proc/{number}/task").iterdir()} - {number}
        # A thread may end meanwhile; the first that is there gets it.
        send = ctypes.CDLL(None).tgkill
        assert any(send(number, thread, signal.SIGTERM) == 0 for thread in sorted(threads, reverse=True))
        assert front.process.wait(timeout=60) == 0


def test_registry_that_is_down() -> None:
    """Without a registry the service starts, is NOT_SERVING, and says REGISTRY_UNAVAILABLE."""
    with (
        serve("--registry", "http://127.0.0.1:9", until="listening") as front,
        grpc.insecure_channel(front.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        refusal = refused(
            channel.unary_unary(
                "/prinz.enricher.v1.EnricherService/ListModels",
                request_serializer=pb.ListModelsRequest.SerializeToString,
            ),
            pb.ListModelsRequest(),
        )

        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
        assert "google.rpc.RetryInfo" in refusal.details
        assert front.end() == 0


def test_port_that_is_taken(service: Service) -> None:
    """A second service on the same port is refused with one sentence, and does not share the port in silence."""
    port = service.address.rpartition(":")[2]
    result = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "serve", "--registry", service.registry, "--port", port],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr


LOG_DIRECTLY = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])

class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"] * 2

mlflow.pyfunc.log_model(
    name="twice",
    python_model=Twice(),
    signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")])),
    registered_model_name="twice",
    pip_requirements=["mlflow"],
)
"""


def test_local_store(tmp_path: Path) -> None:
    """A store that was written without any server is served through one of its own, which ends with the service."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    run_script(LOG_DIRECTLY, store, folder=tmp_path)
    with serve("--registry", store) as front, Client(front.address) as client:
        scores = client.score("twice", {"x": [1.5, -0.0]})
        started = children(front.process.pid)

        assert (scores.version, scores.to_rows()) == ("1", [{"y": 3.0}, {"y": -0.0}])
        assert front.end() == 0
        # The store's server, a worker, and what it was forked from; a folder of this machine is copied by the service.
        assert len(started) == 3
        assert not [pid for pid in started if is_there(pid)]
