"""The log of requests of a whole service, on both gRPC fronts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from prinz_enricher.application import Application
from prinz_enricher.config import AuthSettings, LoggingSettings, QuotaSettings, ServerSettings, Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import ModelError
from prinz_enricher.fronts.grpc import SERVICE, Callers, FrontSecurity
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.accounting import Accounting
from prinz_enricher.service.calls import Front
from prinz_enricher.telemetry.request_log import ANSWERED, COUNTED, FAILED, SLOW, RequestLog
from tests.support.front_core import KINDS, OPTIONS, WAIT, eventually, make_front
from tests.support.guarded_service import GuardedService, halve, score_request, signature_request

BEARER = [("authorization", "Bearer token-of-nk")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


class LoggedService(GuardedService):
    """A service of a model that answers, one that raises, and one that answers when the test says."""

    def __init__(self, log: RequestLog) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        super().__init__("good", "bad", "slow", log=log)

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: object) -> pa.RecordBatch:
            if target.name == "bad":
                raise ModelError(target.name, target.version, "ValueError", "c0ffee")
            if target.name == "slow":
                self.begun.release()
                assert self.go_on.wait(WAIT)
            return halve(batch, params)

        return score


@dataclass
class Open:
    """A service that listens, and what it has logged."""

    service: LoggedService
    front: Front
    channel: grpc.Channel
    log: RequestLog
    accounting: Accounting
    logs: list[EventDict]

    def call(self, request: Any, metadata: Sequence[tuple[str, str]] = BEARER) -> Any:
        """Begin a call."""
        method: Any = self.channel.unary_unary(f"/{SERVICE.full_name}/{type(request).__name__.removesuffix('Request')}")
        return method.future(request.SerializeToString(), timeout=WAIT, metadata=metadata)

    def stream(self, requests: Iterator[pb.ScoreRequest]) -> Any:
        """Open a stream of scorings."""
        method: Any = self.channel.stream_stream(f"/{SERVICE.full_name}/ScoreStream")
        messages = (
            pb.ScoreStreamRequest(sequence=number + 1, request=request).SerializeToString()
            for number, request in enumerate(requests)
        )
        return method(messages, timeout=WAIT, metadata=BEARER)

    def lines(self, event: str) -> list[EventDict]:
        """Return what was logged of an event."""
        return [line for line in self.logs if line["event"] == event]


@contextmanager
def opened(kind: str, folder: Path, *, noted: bool = True, **settings: Any) -> Iterator[Open]:
    """Run a service for the caller `nk`, whose calls are `noted` from the start; all is written when it ends."""
    tokens = folder / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "nk"\nsha256 = "{sha256(b"token-of-nk").hexdigest()}"\n')
    authenticator = Authenticator(AuthSettings(tokens_file=str(tokens)))
    callers = Callers(authenticator, tokens=True, certificates=False)
    with capture_logs() as logs:
        log = RequestLog(LoggingSettings(**settings))
        accounting = Accounting(Quotas(QuotaSettings()), None, log)
        with LoggedService(log) as service:
            front = make_front(kind, security=FrontSecurity(callers), calls=1_000)
            handle, open_source = service.service.handle, service.service.open_source
            port = front.start(handle, open_source, accounting if noted else None)
            try:
                with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                    yield Open(service, front, channel, log, accounting, logs)
            finally:
                service.go_on.set()
                front.drain(1.0)
                log.close()
    callers.close()
    authenticator.close()


def identified(request: pb.ScoreRequest, id: str) -> pb.ScoreRequest:
    """Return a request with an id."""
    request.request_id = id
    return request


def test_a_line_of_each_call(kind: str, tmp_path: Path) -> None:
    """It has who called what, the ids, and the phases; also of calls that share a batch, and of messages."""
    with opened(kind, tmp_path, requests="all") as service:
        futures = [service.call(identified(score_request("good", 4711.25), f"shared {n}")) for n in range(40)]
        futures.append(service.call(identified(score_request("good", 1.0, 2.0, 3.0), "several")))
        futures.append(service.call(signature_request("good")))
        assert [future.code() for future in futures] == [grpc.StatusCode.OK] * 42
        assert len(list(service.stream(identified(score_request("good", 1.0), f"message {n}") for n in range(9)))) == 9
    lines = service.lines(ANSWERED)
    assert {line["log_level"] for line in lines} == {"info"}
    assert Counter(line["method"] for line in lines) == {"Score": 50, "GetSignature": 1, "ScoreStream": 1}
    scores = [line for line in lines if line["method"] == "Score"]
    ids = {"several", *(f"shared {n}" for n in range(40)), *(f"message {n}" for n in range(9))}
    assert {line["request_id"] for line in scores} == ids
    for line in scores:
        assert (line["principal"], line["model"], line["version"], line["code"]) == ("nk", "good", "1", "OK")
        assert line["rows"] == (3 if line["request_id"] == "several" else 1)
        assert line["queue_seconds"] >= 0
        assert 0 < line["compute_seconds"] < line["total_seconds"] < WAIT
    assert "4711" not in str(service.logs)


def test_errors_are_counted(kind: str, tmp_path: Path) -> None:
    """Each kind has a line, with its correlation id, and those after it a count at the drain; answers have none."""
    with opened(kind, tmp_path, requests="errors") as service:
        assert service.call(score_request("good", 1.0)).code() == grpc.StatusCode.OK
        first = service.call(identified(score_request("bad", 1.0), "first"))
        assert first.code() == grpc.StatusCode.INTERNAL
        for future in [service.call(score_request("bad", 1.0)) for _ in range(30)]:
            future.exception()
        assert len(list(service.stream(score_request("bad", 1.0, 2.0) for _ in range(5)))) == 5
        invalid = score_request("good", 1.0)
        invalid.columns.columns[0].name = "other"
        for request in (score_request("nobody", 1.0), score_request("good", 1.0, alias="no"), invalid):
            for _ in range(3):
                service.call(identified(request, "\x1b" * 300 if request is invalid else "n")).exception()
        for _ in range(4):
            service.call(score_request("good", 1.0), []).exception()
        left = service.call(identified(score_request("slow", 1.0), "left"))
        assert service.service.begun.acquire(timeout=WAIT)
        left.cancel()
        eventually(lambda: any(line.get("request_id") == "left" for line in service.logs))
    known = [
        (line.get("model"), line.get("version"), line.get("reason"), line["code"]) for line in service.lines(FAILED)
    ]
    assert sorted(known, key=str) == sorted(
        [
            ("bad", "1", "MODEL_ERROR", "INTERNAL"),
            ("nobody", None, "MODEL_NOT_FOUND", "NOT_FOUND"),
            ("good", None, "ALIAS_NOT_FOUND", "NOT_FOUND"),
            ("good", "1", "INVALID_REQUEST", "INVALID_ARGUMENT"),
            (None, None, "TOKEN_MISSING", "UNAUTHENTICATED"),
            ("slow", "1", None, "CANCELLED"),
        ],
        key=str,
    )
    counts = {(line.get("model"), line.get("reason")): line["calls"] for line in service.lines(COUNTED[FAILED])}
    assert counts == {
        ("bad", "MODEL_ERROR"): 35,
        ("nobody", "MODEL_NOT_FOUND"): 2,
        ("good", "ALIAS_NOT_FOUND"): 2,
        ("good", "INVALID_REQUEST"): 2,
        (None, "TOKEN_MISSING"): 3,
    }
    assert service.lines(ANSWERED) == []
    of_bad = [line for line in service.lines(FAILED) if line.get("model") == "bad"]
    assert (of_bad[0]["request_id"], of_bad[0]["correlation_id"]) == ("first", "c0ffee")
    assert all(len(line.get("request_id", "")) <= 256 for line in service.logs)


def test_slow_calls(kind: str, tmp_path: Path) -> None:
    """A call over the threshold has its phases; a stream, however long, is not slow; nor is what is faster."""
    with opened(kind, tmp_path, slow_call_seconds=1e-9) as service:
        assert service.call(score_request("good", 1.0)).code() == grpc.StatusCode.OK
        assert service.call(score_request("nobody", 1.0)).code() == grpc.StatusCode.NOT_FOUND
        assert len(list(service.stream(iter([score_request("good", 1.0)])))) == 1
        service.log.configure(LoggingSettings(slow_call_seconds=WAIT))
        assert service.call(score_request("good", 1.0)).code() == grpc.StatusCode.OK
    assert Counter((line["method"], line["code"]) for line in service.lines(SLOW)) == {
        ("Score", "OK"): 2,
        ("Score", "NOT_FOUND"): 1,
    }
    assert {line["log_level"] for line in service.lines(SLOW)} == {"warning"}
    answered = [line for line in service.lines(SLOW) if line["code"] == "OK"]
    assert all({"queue_seconds", "compute_seconds", "total_seconds"} < line.keys() for line in answered)


def test_switched_while_it_runs(kind: str, tmp_path: Path) -> None:
    """Nothing is noted while all is off, but errors of models; then calls are, and messages of streams open before."""
    with opened(kind, tmp_path, noted=False) as service:
        go_on = threading.Event()

        def requests() -> Iterator[pb.ScoreRequest]:
            yield identified(score_request("good", 1.0), "before")
            assert go_on.wait(WAIT)
            yield identified(score_request("good", 1.0), "after")

        stream = service.stream(requests())
        next(stream)
        for future in [service.call(score_request("bad", 1.0)) for _ in range(20)]:
            assert future.code() == grpc.StatusCode.INTERNAL
        assert service.call(score_request("nobody", 1.0)).code() == grpc.StatusCode.NOT_FOUND
        service.log.configure(LoggingSettings(requests="all"))
        service.front.change(ServerSettings(), AccessRules(()), service.accounting)
        go_on.set()
        assert len(list(stream)) == 1
        assert service.call(identified(score_request("good", 1.0), "then")).code() == grpc.StatusCode.OK
        eventually(lambda: len(service.lines(ANSWERED)) == 2)
        service.front.change(ServerSettings(), AccessRules(()), None)
        assert service.call(identified(score_request("good", 1.0), "off")).code() == grpc.StatusCode.OK
    assert [line["request_id"] for line in service.lines(ANSWERED)] == ["after", "then"]
    assert [(line["model"], line["correlation_id"]) for line in service.lines(FAILED)] == [("bad", "c0ffee")]
    assert [line["calls"] for line in service.lines(COUNTED[FAILED])] == [19]


def test_an_application(kind: str, tmp_path: Path) -> None:
    """It logs by its settings, and by others once they are read again; counts are written when it stops."""
    settings = Settings.load(
        {
            "server": {"port": 0, "front": kind, "grace_period": 1.0},
            "registry": {"url": "http://127.0.0.1:9", "snapshot_folder": ""},
            "cache": {"folder": str(tmp_path)},
            "scoring": {"spare_workers": 0},
        },
        environment={},
    )
    with capture_logs() as logs:
        application = Application(settings)
        port = application.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                score: Any = channel.unary_unary(f"/{SERVICE.full_name}/Score")

                def refuse() -> None:
                    future = score.future(score_request("wine", 1.0).SerializeToString(), timeout=WAIT)
                    assert future.code() == grpc.StatusCode.UNAVAILABLE

                refuse()
                changed = {"logging": LoggingSettings(requests="errors")}
                application.reload(lambda: settings.model_copy(update=changed))
                for _ in range(3):
                    refuse()
        finally:
            application.stop()
    found = [(line["event"], line["reason"], line.get("calls")) for line in logs if line.get("model") == "wine"]
    assert found == [(FAILED, "REGISTRY_UNAVAILABLE", None), (COUNTED[FAILED], "REGISTRY_UNAVAILABLE", 2)]
