"""SIGHUP to `prinz-enricher serve`: what its settings file says is taken over, or named, or refused whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from tests.support.deadline import wait_until
from tests.support.front_core import KINDS
from tests.support.guarded_service import score_request
from tests.support.hostile_server import HostileServer, answer_json
from tests.support.serve_process import Serve, serve
from tests.support.synthetic_registry import SyntheticRegistry

READ, REFUSED = "settings read again", "settings not taken over, nothing has changed"
FRONTS = pytest.mark.parametrize("front", KINDS)
SECRET = "hunter-2-of-the-registry"  # noqa: S105 - made up


def caller(name: str) -> Any:
    """Return the metadata of a caller."""
    return [("authorization", f"Bearer token-of-{name}")]


def rule(principal: str, models: str, methods: str = "list describe score watch") -> str:
    """Return an access rule."""
    return (
        f'[[access]]\nprincipals = ["{principal}"]\nmodels = {json.dumps(models.split())}\n'
        f"methods = {json.dumps(methods.split())}\n"
    )


class Reloading:
    """A service whose settings are in a file."""

    def __init__(self, running: Serve, file: Path, head: str, channel: grpc.Channel) -> None:
        self.running = running
        self.channel = channel
        self.stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self._file = file
        self._head = head

    def ends(self) -> list[dict[str, Any]]:
        """Return what the log says of each reload."""
        return [event for event in map(json.loads, list(self.running.lines)) if event["event"] in {READ, REFUSED}]

    def signal(self, text: str) -> None:
        """Replace the settings, and send SIGHUP."""
        self._file.write_text(self._head + text)
        self.running.process.send_signal(signal.SIGHUP)

    def reload(self, text: str) -> dict[str, Any]:
        """Replace the settings, send SIGHUP, and return what the log says of it."""
        before = len(self.ends())
        self.signal(text)
        wait_until(lambda: len(self.ends()) > before)
        return self.ends()[before]

    def names(self, principal: str = "nk", **request: Any) -> list[str]:
        """Return the models that a caller lists."""
        response = self.stub.ListModels(pb.ListModelsRequest(**request), metadata=caller(principal), timeout=30)
        return [model.name for model in response.models]

    def failures(self) -> float:
        """Return how many reloads failed, by the metrics."""
        [port] = [
            event["port"] for event in map(json.loads, list(self.running.lines)) if "admin http" in event["event"]
        ]
        headers = {"authorization": "Bearer token-of-ops"}
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, trust_env=False).text
        [value] = re.findall(
            r'^prinz_enricher_reload_failures_total\{what="settings"\} (\S+)$', page, flags=re.MULTILINE
        )
        return float(value)


@contextmanager
def reloading(
    server: HostileServer,
    folder: Path,
    text: str,
    *flags: str,
    tokens: bool = True,
    variables: Mapping[str, str | None] | None = None,
) -> Iterator[Reloading]:
    """Run a service with a settings file, before a registry; its callers are `nk` and `ops`."""
    digests = {name: hashlib.sha256(f"token-of-{name}".encode()).hexdigest() for name in ("nk", "ops")}
    known = folder / "tokens.toml"
    known.write_text("".join(f'[[token]]\nname = "{name}"\nsha256 = "{of}"\n' for name, of in digests.items()))
    head = f'registry.url = "{server.url}"\nregistry.snapshot_folder = ""\nregistry.token = "{SECRET}"\n'
    head += "registry.refresh_interval = 0.2\n" + (f'auth.tokens_file = "{known}"\n' if tokens else "")
    file = folder / "prinz.toml"
    file.write_text(head + text)
    with (
        serve("--config", str(file), *flags, variables=variables) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield Reloading(running, file, head, channel)
        assert running.process.poll() is None
        assert running.end() == 0
    assert SECRET not in "".join(running.lines)


def reason_of(act: Callable[[], object]) -> str:
    """Return the code, and the reason, of an error."""
    with pytest.raises(grpc.RpcError) as raised:
        act()
    error: Any = raised.value
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    found = re.search(rb"[A-Z]+_[A-Z_]+|OVERLOADED", details)
    return found[0].decode() if found else error.code().name


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """Three models."""
    found = SyntheticRegistry("fraud-a", "fraud-b", "wine")
    hostile_server.respond = found
    return found


@FRONTS
@pytest.mark.usefixtures("registry")
def test_access_rules(front: str, hostile_server: HostileServer, tmp_path: Path) -> None:
    """Other rules count for the next call; watches end and their tokens, and those of pages, are no more of use."""
    old, new = rule("nk", "fraud-*"), rule("nk", "wine fraud-b", "list watch")
    with reloading(hostile_server, tmp_path, old, "--front", front) as service:
        first = service.stub.ListModels(pb.ListModelsRequest(page_size=1), metadata=caller("nk"))
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        # From here on the answer to a call may be remembered.
        service.stub.GetSignature(pb.GetSignatureRequest(model={"name": "fraud-a"}), metadata=caller("nk"))
        watching = service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk"))
        seen = [next(watching) for _ in range(3)]
        assert [event.added.name for event in seen] == ["fraud-a", "fraud-b", ""]
        asked = health_pb2.HealthCheckRequest(service="model/fraud-a")
        wait_until(lambda: health.Check(asked, metadata=caller("nk")).status == health_pb2.HealthCheckResponse.SERVING)
        healthy = health.Watch(asked, metadata=caller("nk"))
        assert next(healthy).status == health_pb2.HealthCheckResponse.SERVING

        assert service.reload(new)["taken_over"] == ["access"]

        assert service.names() == ["fraud-b", "wine"]
        for request in (
            lambda: service.stub.GetSignature(pb.GetSignatureRequest(model={"name": "fraud-a"}), metadata=caller("nk")),
            lambda: service.stub.Score(score_request("fraud-a", 1.0), metadata=caller("nk")),
        ):
            assert reason_of(request) == "MODEL_NOT_FOUND"
        assert (
            reason_of(lambda: service.stub.Score(score_request("wine", 1.0), metadata=caller("nk")))
            == "MODEL_FORBIDDEN"
        )
        assert reason_of(lambda: next(watching)) == "RESYNC_REQUIRED"
        resumed = pb.WatchModelsRequest(resume_token=seen[-1].resume_token)
        assert reason_of(lambda: next(service.stub.WatchModels(resumed, metadata=caller("nk")))) == "RESYNC_REQUIRED"
        assert reason_of(lambda: service.names(page_token=first.next_page_token)) == "INVALID_PAGE_TOKEN"
        again = service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk"))
        assert [next(again).added.name for _ in range(3)] == ["fraud-b", "wine", ""]
        assert next(healthy).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert reason_of(lambda: health.Check(asked, metadata=caller("nk"))) == "NOT_FOUND"

        # None: whoever is known may do everything; and back.
        assert service.reload("")["taken_over"] == ["access"]
        assert service.names() == ["fraud-a", "fraud-b", "wine"]
        assert reason_of(lambda: next(again)) == "RESYNC_REQUIRED"
        assert next(healthy).status == health_pb2.HealthCheckResponse.SERVING
        service.reload(old)
        assert service.names() == ["fraud-a", "fraud-b"]


@FRONTS
@pytest.mark.usefixtures("registry")
def test_quotas(front: str, hostile_server: HostileServer, tmp_path: Path) -> None:
    """Calls in flight stay counted by other limits, and those that began without a limit never count."""
    with reloading(hostile_server, tmp_path, "", "--front", front) as service:
        uncounted = service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk"))
        next(uncounted)
        assert service.reload("quota.calls_in_flight = 3\n")["taken_over"] == ["quota.calls_in_flight"]
        watching = [service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk")) for _ in range(2)]
        for one in watching:
            next(one)
        uncounted.cancel()
        service.names()
        service.reload("quota.calls_in_flight = 2\n")
        assert reason_of(service.names) == "QUOTA_EXCEEDED"
        assert service.names("ops")
        service.reload("")
        service.names()
        service.reload("quota.calls_in_flight = 2\n")
        assert reason_of(service.names) == "QUOTA_EXCEEDED"
        watching[0].cancel()
        wait_until(lambda: passes(service.names))


def passes(call: Callable[[], object]) -> bool:
    """Return whether a call gets an answer."""
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_log_level(hostile_server: HostileServer, registry: SyntheticRegistry, tmp_path: Path) -> None:
    """Loggers that exist follow another level, up and down; a flag wins over the file, as at the start."""
    with reloading(hostile_server, tmp_path, 'logging.level = "info"\n') as service:

        def changes() -> int:
            return sum('"catalog changed"' in line for line in list(service.running.lines))

        # At this level what is taken over is said where something is not.
        said = service.reload('logging.level = "warning"\nserver.insecure = true\n')
        assert (said["taken_over"], said["restart_needed"], said["level"]) == (
            ["logging.level"],
            ["server.insecure"],
            "warning",
        )
        before = changes()
        registry.add("zander")
        wait_until(lambda: "zander" in service.names())
        assert service.reload('logging.level = "info"\n')["level"] == "info"
        assert changes() == before
        registry.remove("zander")
        wait_until(lambda: "zander" not in service.names() and changes() == before + 1)
        assert not any('"level": "debug"' in line for line in list(service.running.lines))
        service.reload('logging.level = "debug"\n')
        wait_until(lambda: any('"level": "debug"' in line for line in list(service.running.lines)))
    with reloading(
        hostile_server, tmp_path, "", "--log-level", "info", variables={"PRINZ_SCORING__MAX_WAIT": "7"}
    ) as service:
        assert service.reload('logging.level = "error"\nscoring.max_wait = 9\n')["taken_over"] == []


@pytest.mark.usefixtures("registry")
def test_include_and_exclude(hostile_server: HostileServer, tmp_path: Path) -> None:
    """Models come and go within a read of the registry, also for watchers; go, also where it does not answer."""
    with reloading(hostile_server, tmp_path, 'registry.include = ["fraud-*"]\n') as service:
        watching = service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk"))
        assert [next(watching).added.name for _ in range(3)] == ["fraud-a", "fraud-b", ""]
        said = service.reload('registry.include = ["*-b", "wine"]\nregistry.exclude = ["nothing"]\n')
        assert said["taken_over"] == ["registry.exclude", "registry.include"]
        wait_until(lambda: service.names() == ["fraud-b", "wine"])
        events = [next(watching), next(watching)]
        assert [(one.removed_name, one.added.name) for one in events] == [("fraud-a", ""), ("", "wine")]
        hostile_server.respond = lambda _: answer_json({"error_code": "INTERNAL_ERROR", "message": "down"}, 500)
        service.reload('registry.include = ["wine"]\n')
        wait_until(lambda: service.names() == ["wine"])
        assert next(watching).removed_name == "fraud-b"


@pytest.mark.usefixtures("registry")
def test_preload(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A model that the file wants preloaded begins to load without a call."""
    unset = {"PRINZ_SCORING__PRELOAD": None}
    with reloading(hostile_server, tmp_path, 'scoring.preload = ["none"]\n', variables=unset) as service:

        def state(model: str) -> str:
            models = service.stub.ListModels(pb.ListModelsRequest(), metadata=caller("nk"), timeout=30).models
            [version] = [one.versions[0] for one in models if one.name == model]
            return model_pb2.ModelVersion.State.Name(version.state)

        assert state("wine") == "STATE_DISCOVERED"
        assert service.reload('scoring.preload = ["w*"]\n')["taken_over"] == ["scoring.preload"]
        # It has no files, so that it can't be loaded.
        wait_until(lambda: state("wine") == "STATE_FAILED")
        assert state("fraud-a") == "STATE_DISCOVERED"


@FRONTS
@pytest.mark.usefixtures("registry")
def test_limits(front: str, hostile_server: HostileServer, tmp_path: Path) -> None:
    """Rows of a request and streams are bounded by what the file says now."""
    few = "server.max_calls = 1\nscoring.max_batch_rows = 10\n"
    with reloading(hostile_server, tmp_path, few, "--front", front) as service:
        watching = service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("nk"))
        next(watching)
        other = [service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("ops")) for _ in range(2)]
        assert reason_of(lambda: next(other[0])) == "OVERLOADED"
        for limit in (10, 5):
            with pytest.raises(grpc.RpcError, match=f"11 rows.* {limit}"):
                service.stub.Score(score_request("wine", *[1.0] * 11), metadata=caller("nk"))
            said = service.reload("server.max_calls = 1000\nscoring.max_batch_rows = 5\n")
        assert said["taken_over"] == []
        next(service.stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("ops")))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("scoring.max_wait = 0\nserver.max_call = 7\n", 'unknown key "max_call" in section "server"'),
        ("scoring.max_wait = 0\nserver.max_calls = 0\n", "scoring.max_wait: "),
        ("scoring = [\n", "prinz.toml: "),
        ("x = " + "[" * 100_000, ""),
        ('registry.password = "hunter-2-of-the-registry\n', "prinz.toml: "),
        ("auth = {}\n", "prinz.toml: "),
    ],
)
@pytest.mark.usefixtures("registry")
def test_bad_file(bad: str, why: str, hostile_server: HostileServer, tmp_path: Path) -> None:
    """A file that can't be used changes nothing, is counted, and the log names its faults; a good one goes on."""
    with reloading(hostile_server, tmp_path, rule("nk", "fraud-*"), "--http-port", "0") as service:
        assert service.failures() == 0
        said = service.reload(f'{bad}registry.exclude = ["fraud-a"]\n{rule("nk", "wine")}')
        assert (said["event"], why in said["why"], said["level"]) == (REFUSED, True, "error")
        assert service.failures() == 1
        assert service.names() == ["fraud-a", "fraud-b"]
        assert service.reload(rule("nk", "wine"))["taken_over"] == ["access"]
        assert service.failures() == 1
        assert service.names() == ["wine"]


@pytest.mark.usefixtures("registry")
def test_rules_that_need_a_restart(hostile_server: HostileServer, tmp_path: Path) -> None:
    """Rules that come with the authentication they need are refused whole: nobody would have a right any more."""
    with reloading(hostile_server, tmp_path, "", tokens=False) as service:
        said = service.reload(f'auth.tokens_file = "{tmp_path}/tokens.toml"\n{rule("nk", "wine")}')
        assert "access: needs authentication" in said["why"]
        assert "auth.tokens_file" in said["why"]
        assert service.stub.ListModels(pb.ListModelsRequest()).models


@pytest.mark.usefixtures("registry")
def test_no_call_fails(hostile_server: HostileServer, tmp_path: Path) -> None:
    """While settings change again and again, calls that all of them allow are answered, and no SIGHUP is lost."""
    stop = threading.Event()
    with reloading(hostile_server, tmp_path, rule("nk", "fraud-*")) as service:

        def call() -> int:
            answered = 0
            while not stop.is_set():
                assert "fraud-a" in service.names()
                service.stub.GetSignature(pb.GetSignatureRequest(model={"name": "fraud-a"}), metadata=caller("nk"))
                answered += 1
            return answered

        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(call) for _ in range(4)]
            try:
                for number in range(12):
                    models = "fraud-* wine" if number % 2 else "fraud-a"
                    limits = f"server.max_calls = {1000 + number}\nquota.calls_in_flight = {100 + number}\n"
                    service.reload(limits + rule("nk", models))
            finally:
                stop.set()
            assert all(one.result(30) for one in calls)
        # One that comes while another is under way reads the file as it is by then.
        for models in ("fraud-b", "wine"):
            service.signal(rule("nk", models))
        wait_until(lambda: service.names() == ["wine"])


@pytest.mark.usefixtures("registry")
def test_without_a_file(hostile_server: HostileServer) -> None:
    """SIGHUP to a service without --config is said in the log, and the service goes on."""
    with serve("--registry", hostile_server.url) as running:
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any("SIGHUP changes nothing" in line for line in list(running.lines)))
        with grpc.insecure_channel(running.address) as channel:
            stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            assert stub.ListModels(pb.ListModelsRequest(), timeout=30).models
        assert running.end() == 0


@pytest.mark.usefixtures("registry")
def test_before_it_listens(hostile_server: HostileServer, tmp_path: Path) -> None:
    """SIGHUP to a service that has not started yet does not end it: it reads its file again once it listens."""
    file = tmp_path / "prinz.toml"
    file.write_text(f'registry = {{url = "{hostile_server.url}", snapshot_folder = ""}}\n')

    def send(pid: int) -> None:
        status = Path(f"/proc/{pid}/status")
        # Which signals have a handler, proc_pid_status(5).
        wait_until(lambda: int(status.read_text().split("SigCgt:")[1].split()[0], 16) >> signal.SIGHUP - 1 & 1 == 1)
        os.kill(pid, signal.SIGHUP)

    with serve("--config", str(file), begin=send) as running:
        wait_until(lambda: any(READ in line for line in list(running.lines)))
        events = [json.loads(line)["event"] for line in list(running.lines)]
        assert events.index("listening") < events.index(READ)
        assert running.end() == 0
