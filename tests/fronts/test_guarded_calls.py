"""Access rules, quotas and the audit log of a whole service, on both gRPC fronts."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2

from prinz_enricher.config import AccessRule, AuditSettings, AuthSettings, QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import QuotaExceeded
from prinz_enricher.fronts.grpc import SERVICE, Callers, FrontSecurity
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.accounting import Accounting
from prinz_enricher.service.calls import Front
from prinz_enricher.telemetry.audit import AuditLog
from tests.support.front_core import KINDS, OPTIONS, WAIT, eventually, make_front
from tests.support.guarded_service import GuardedService, halve, model_of, rule, score_request, signature_request

RULES = (rule("nk", "fraud-* slow"), rule("ops", "*"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


class CountedQuotas(Quotas):
    """Quotas that show how many calls of each principal are in flight, and how many were admitted."""

    def __init__(self, settings: QuotaSettings) -> None:
        super().__init__(settings)
        self.in_flight: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()

    def enter(self, principal: Principal | None) -> QuotaExceeded | None:
        """Count one more."""
        refusal = super().enter(principal)
        if refusal is None and principal is not None:
            self.in_flight[principal.name] += 1
            self.entered[principal.name] += 1
        return refusal

    def leave(self, principal: Principal | None) -> None:
        """Count one less."""
        super().leave(principal)
        if principal is not None:
            self.in_flight[principal.name] -= 1


class SlowService(GuardedService):
    """A service whose model `slow` answers when the test says so, and whose model `fraud-bad` raises."""

    def __init__(self, rules: Sequence[AccessRule], quotas: Quotas) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        super().__init__("fraud-a", "fraud-bad", "geheim", "slow", rules=rules, quotas=quotas)

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: object) -> pa.RecordBatch:
            if target.name == "fraud-bad":
                raise ValueError("98765432.25")
            if target.name == "slow":
                self.begun.release()
                self.go_on.wait(WAIT)
            return halve(batch, params)

        return score


@dataclass
class Open:
    """A service that listens."""

    service: SlowService
    quotas: CountedQuotas
    front: Front
    channel: grpc.Channel

    def call(self, principal: str, request: Any, timeout: float = WAIT) -> Any:
        """Begin a call."""
        method: Any = self.channel.unary_unary(f"/{SERVICE.full_name}/{type(request).__name__.removesuffix('Request')}")
        return method.future(request.SerializeToString(), timeout=timeout, metadata=bearer(principal))

    def heard(self, principal: str, request: Any) -> bytes:
        """Return all that a caller hears in answer."""
        future = self.call(principal, request)
        return all_of(future) + (b"" if future.exception() else future.result())

    def watch(self, principal: str, **request: Any) -> Any:
        """Open a watch."""
        method: Any = self.channel.unary_stream(f"/{SERVICE.full_name}/WatchModels")
        return method(pb.WatchModelsRequest(**request).SerializeToString(), timeout=WAIT, metadata=bearer(principal))

    def stream(self, principal: str, *requests: pb.ScoreRequest) -> list[bytes]:
        """Score by a stream; return the answers in the order of the requests."""
        method: Any = self.channel.stream_stream(f"/{SERVICE.full_name}/ScoreStream")
        messages = [
            pb.ScoreStreamRequest(sequence=number + 1, request=request).SerializeToString()
            for number, request in enumerate(requests)
        ]
        answers = list(method(iter(messages), timeout=WAIT, metadata=bearer(principal)))
        return sorted(answers, key=lambda answer: int(pb.ScoreStreamResponse.FromString(answer).sequence))


def bearer(principal: str) -> list[tuple[str, str]]:
    """Return the token of a principal."""
    return [("authorization", f"Bearer token-of-{principal}")] if principal else []


def all_of(future: Any) -> bytes:
    """Return the code, the text and the metadata of an answer."""
    metadata = [*future.initial_metadata(), *future.trailing_metadata()]
    # gRPC's own fields do not differ.
    return repr((future.code(), future.details(), sorted(metadata))).encode()


@contextmanager
def opened(
    kind: str, folder: Path, *, quota: QuotaSettings | None = None, audit: AuditLog | None = None
) -> Iterator[Open]:
    """Run a service for the callers `nk` and `ops`."""
    tokens = folder / "tokens.toml"
    tokens.write_text(
        "".join(
            f'[[token]]\nname = "{name}"\nsha256 = "{sha256(f"token-of-{name}".encode()).hexdigest()}"\n'
            for name in ("nk", "ops")
        )
    )
    authenticator = Authenticator(AuthSettings(tokens_file=str(tokens)))
    callers = Callers(authenticator, tokens=True, certificates=False)
    quotas = CountedQuotas(quota or QuotaSettings())
    with SlowService(RULES, quotas) as service:
        front = make_front(kind, security=FrontSecurity(callers, rules=service.targets.rules), calls=1_000)
        port = front.start(service.service.handle, service.service.open_source, Accounting(quotas, audit))
        front.set_health({"model/geheim": True, "model/fraud-a": True})
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield Open(service, quotas, front, channel)
            service.go_on.set()
            front.drain(1.0)
    callers.close()
    authenticator.close()
    if audit is not None:
        audit.close()


def test_no_answer_names_a_hidden_model(kind: str, tmp_path: Path) -> None:
    """Whatever its method, no byte of an answer or its metadata tells a hidden model from one that is not there."""
    with opened(kind, tmp_path) as service:
        heard = [
            service.heard("nk", pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL, page_size=2)),
            service.heard("nk", pb.ListModelsRequest(filter='name LIKE "%h_im"')),
        ]
        watching = service.watch("nk")
        heard += [next(watching) for _ in range(4)]
        service.service.catalog.change(model_of("geheim", "changed"), model_of("fraud-a", "changed"))
        heard.append(next(watching))
        assert b"fraud-a" in heard[-1]
        watching.cancel()
        assert all(b"geheim" not in one for one in heard)

        def same(hidden: bytes, missing: bytes) -> None:
            assert b"geheim" in hidden
            assert hidden.replace(b"geheim", b"fehlt!") == missing

        for request in (score_request, signature_request):
            same(service.heard("nk", request("geheim")), service.heard("nk", request("fehlt!")))
        # The first one's sequence is the same in both.
        same(*(service.stream("nk", score_request(name, 1.0))[0] for name in ("geheim", "fehlt!")))
        check: Any = service.channel.unary_unary("/grpc.health.v1.Health/Check")
        futures = [
            check.future(
                health_pb2.HealthCheckRequest(service=f"model/{name}").SerializeToString(),
                timeout=WAIT,
                metadata=bearer("nk"),
            )
            for name in ("geheim", "fehlt!", "fraud-a")
        ]
        hidden, missing, seen = futures
        assert all_of(hidden) == all_of(missing)
        assert hidden.code() == grpc.StatusCode.NOT_FOUND
        assert seen.code() == grpc.StatusCode.OK
        assert b"geheim" in service.heard("ops", pb.ListModelsRequest())


def test_places_of_calls_that_end_in_any_way(kind: str, tmp_path: Path) -> None:
    """Answers, errors, cancellations, deadlines and streams each free a place, of their caller alone."""
    with opened(kind, tmp_path, quota=QuotaSettings(calls_in_flight=3)) as service:

        def used(calls: int) -> None:
            eventually(lambda: service.quotas.in_flight["nk"] == calls)

        # The first batch of a process makes pyarrow import pandas.
        service.call("ops", score_request("fraud-a", 1.0)).result()
        waiting = [service.call("nk", score_request("slow", 1.0)) for _ in range(2)]
        late = service.call("nk", score_request("slow", 1.0), timeout=0.8)
        used(3)
        over = service.call("nk", score_request("fraud-a", 1.0))
        assert over.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert b"QUOTA_EXCEEDED" in all_of(over)
        assert service.call("ops", score_request("fraud-a", 1.0)).code() == grpc.StatusCode.OK
        assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        used(2)
        waiting[0].cancel()
        used(1)
        for name, code in (
            ("fraud-a", "OK"),
            ("fraud-bad", "INTERNAL"),
            ("geheim", "NOT_FOUND"),
            ("", "INVALID_ARGUMENT"),
        ):
            assert service.call("nk", score_request(name, 1.0)).code().name == code
        assert service.call("nk", pb.ListModelsRequest(page_size=-1)).code() == grpc.StatusCode.INVALID_ARGUMENT
        assert service.call("", score_request("fraud-a", 1.0)).code() == grpc.StatusCode.UNAUTHENTICATED
        assert service.call("nk", score_request("fraud-a", *[1.0] * 20_000)).code() != grpc.StatusCode.OK
        used(1)
        watching = service.watch("nk")
        next(watching)
        used(2)
        watching.cancel()
        used(1)
        # The stream, and a message at a time.
        assert len(service.stream("nk", score_request("fraud-a", 1.0))) == 1
        used(1)
        service.service.go_on.set()
        assert waiting[1].code() == grpc.StatusCode.OK
        used(0)


def test_a_storm_of_calls_leaves_no_place_taken(kind: str, tmp_path: Path) -> None:
    """Calls and streams that are answered, refused, cancelled or late, all at once, are in flight no more afterwards.

    Each that was admitted has one line.
    """
    path = tmp_path / "audit.log"
    audit = AuditLog(AuditSettings(output=str(path)))
    chance = random.Random(20)  # noqa: S311 - not for secrets
    with opened(kind, tmp_path, quota=QuotaSettings(calls_in_flight=20), audit=audit) as service:
        service.call("ops", score_request("fraud-a", 1.0)).result()
        left: list[Any] = []

        def one(_: int) -> None:
            name, timeout = chance.choice(["fraud-a", "fraud-bad", "geheim", "slow"]), chance.choice([0.02, WAIT])
            what = chance.choice(["call", "call", "cancel", "stream", "watch"])
            if what == "stream":
                messages = (pb.ScoreStreamRequest(sequence=n, request=score_request(name, 1.0)) for n in range(3))
                method: Any = service.channel.stream_stream(f"/{SERVICE.full_name}/ScoreStream")
                data = iter([message.SerializeToString() for message in messages])
                call = method(data, timeout=timeout, metadata=bearer("nk"))
            elif what == "watch":
                call = service.watch("nk")
            else:
                call = service.call("nk", score_request(name, 1.0), timeout=timeout)
            if what != "call":
                threading.Event().wait(chance.random() / 50)
                call.cancel()
            left.append(call)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, range(300)))
        service.service.go_on.set()
        eventually(lambda: all(future.code() is not None for future in left))
        eventually(lambda: not service.quotas.in_flight["nk"])
        assert not service.quotas.in_flight["ops"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ended = [line for line in lines if "reason" in line and line["reason"] != "QUOTA_EXCEEDED"]
    ended = [line for line in ended if line["principal"] == "nk"]
    omitted = sum(line.get("omitted", 0) for line in lines)
    assert len(ended) <= service.quotas.entered["nk"] <= len(ended) + omitted


def test_rows_of_streams_and_calls_share_a_quota(kind: str, tmp_path: Path) -> None:
    """Each message of a stream is charged its rows, as a call is."""
    with opened(kind, tmp_path, quota=QuotaSettings(rows_per_second=1)) as service:
        answers = [
            pb.ScoreStreamResponse.FromString(one) for one in service.stream("nk", *[score_request("fraud-a", 1.0)] * 3)
        ]
        outcomes = [answer.WhichOneof("result") for answer in answers]
        assert sorted(outcomes) == ["response", "status", "status"]
        assert service.call("nk", score_request("fraud-a", 1.0)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert service.call("ops", score_request("fraud-a", 1.0)).code() == grpc.StatusCode.OK


def test_each_call_has_its_line(kind: str, tmp_path: Path) -> None:
    """Lines tell who called what from where, the version that scored, its rows and the end; never a value."""
    path = tmp_path / "audit.log"
    audit = AuditLog(AuditSettings(output=str(path)))
    with opened(kind, tmp_path, audit=audit) as service:
        service.call("nk", score_request("fraud-a", 98765432.25)).result()
        service.call("nk", score_request("fraud-a", 98765432.25)).result()
        service.call("ops", score_request("fraud-a", *[98765432.25] * 9, alias="champion")).result()
        for request in (
            score_request("fraud-bad", 98765432.25),
            score_request("geheim", 98765432.25),
            signature_request("gehe\nim"),
        ):
            service.call("nk", request).exception()
        service.call("nk", signature_request("fraud-a")).result()
        service.call("ops", pb.ListModelsRequest()).result()
        service.call("", score_request("geheim", 98765432.25)).exception()
        service.stream("nk", score_request("fraud-a", 98765432.25))
        watching = service.watch("nk")
        next(watching)
        watching.cancel()
        eventually(lambda: "WatchModels" in path.read_text())
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "98765432" not in text
    assert "token-of" not in text
    assert all(line["peer"] for line in lines)
    keys = ("principal", "method", "model", "version", "rows", "code", "reason")
    stream = [line for line in lines if line["method"] in {"ScoreStream", "WatchModels"}]
    assert [tuple(line[key] for key in keys) for line in lines if line not in stream] == [
        ("nk", "Score", "fraud-a", "1", 1, "OK", ""),
        ("nk", "Score", "fraud-a", "1", 1, "OK", ""),
        ("ops", "Score", "fraud-a", "1", 9, "OK", ""),
        ("nk", "Score", "fraud-bad", "1", 1, "INTERNAL", "MODEL_ERROR"),
        ("nk", "Score", "geheim", "", 0, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("nk", "GetSignature", "gehe\nim", "", 0, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("nk", "GetSignature", "fraud-a", "1", 0, "OK", ""),
        ("ops", "ListModels", "", "", 0, "OK", ""),
        ("", "Score", "", "", 0, "UNAUTHENTICATED", "TOKEN_MISSING"),
        ("nk", "Score", "fraud-a", "1", 1, "OK", ""),
    ]
    assert [(line["method"], line["code"]) for line in stream] == [("ScoreStream", "OK"), ("WatchModels", "CANCELLED")]
    assert next(line for line in lines if line["reason"] == "MODEL_ERROR")["correlation_id"]


def test_no_answer_without_a_line(kind: str, tmp_path: Path) -> None:
    """With `required` calls are refused as UNAVAILABLE while the log can't be written; health is not."""
    audit = AuditLog(AuditSettings(output="/dev/full", required=True))
    with opened(kind, tmp_path, audit=audit) as service:
        eventually(lambda: service.call("nk", score_request("fraud-a", 1.0)).code() == grpc.StatusCode.UNAVAILABLE)
        refused = service.call("nk", pb.ListModelsRequest())
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert "audit log" in refused.details()
        check: Any = service.channel.unary_unary("/grpc.health.v1.Health/Check")
        check(health_pb2.HealthCheckRequest(service="").SerializeToString(), timeout=WAIT)
