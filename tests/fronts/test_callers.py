"""Who may call a gRPC front, by tokens: one suite over all fronts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from prinz_enricher.config import AccessRule, AuthSettings
from prinz_enricher.errors import Overloaded, TokenInvalid
from prinz_enricher.fronts.grpc import Callers, FrontSecurity
from prinz_enricher.security import watched_files
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.principal import ClientCertificate, Principal
from prinz_enricher.service.status import to_status
from tests.support.call_log import Log
from tests.support.front_core import KINDS, WAIT, Running, eventually, refusal, running_front
from tests.support.issuer import SigningKey, bad_tokens, jwks, jwt_settings

TOKEN, EXPIRED = "a-token-of-these-tests", "a-token-that-has-expired"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


@dataclass
class Guarded:
    """A front that asks who calls, and what its issuer signs with."""

    running: Running
    key: SigningKey

    def score(self, token: str | None, request: bytes = b"x") -> Any:
        """Call with a token."""
        return self.running.method("Score")(request, timeout=WAIT, metadata=bearer(token))

    def accepts(self, token: str) -> bool:
        """Return whether a token is accepted by now."""
        return self.code("/prinz.enricher.v1.EnricherService/Score", token) == grpc.StatusCode.OK

    def code(self, path: str, token: str | None) -> grpc.StatusCode:
        """Call a path, and return the code of the answer."""
        method: Any = self.running.channel.unary_unary(path)
        future = method.future(b"x", timeout=WAIT, metadata=bearer(token))
        code: grpc.StatusCode = future.code()
        return code

    def stub(self, kind: Any) -> Any:
        """Return a stub of another service."""
        return kind(self.running.channel)


def bearer(token: str | None) -> list[tuple[str, str]]:
    """Return the metadata with a token."""
    return [] if token is None else [("authorization", f"Bearer {token}")]


@contextmanager
def guarded(kind: str, folder: Path, *, log: Log | None = None, rules: AccessRules | None = None) -> Iterator[Guarded]:
    """Run a front for callers with static tokens or JWTs."""
    key, tokens = SigningKey("one"), folder / "tokens.toml"
    digests = [sha256(token.encode()).hexdigest() for token in (TOKEN, EXPIRED)]
    tokens.write_text(
        f'[[token]]\nname = "scenarios"\nsha256 = "{digests[0]}"\n'
        f'[[token]]\nname = "late"\nsha256 = "{digests[1]}"\nexpires = 2020-01-01\n'
    )
    (folder / "jwks.json").write_bytes(jwks(key))
    authenticator = Authenticator(AuthSettings(tokens_file=str(tokens), jwt=jwt_settings(folder / "jwks.json")))
    known = Callers(authenticator, tokens=True, certificates=False)
    try:
        with running_front(kind, FrontSecurity(known, rules=rules or AccessRules(())), log) as running:
            yield Guarded(running, key)
    finally:
        known.close()
        authenticator.close()


def test_tokens_name_the_caller(kind: str, tmp_path: Path) -> None:
    """A call with a token, static or signed, comes with its principal, and one object stands for each of them."""
    with guarded(kind, tmp_path) as front:
        tokens = [TOKEN, front.key.token(sub="signed"), TOKEN, front.key.token(sub="signed", jti="2")]
        futures = [
            front.running.method("Score").future(b"keep", timeout=WAIT, metadata=bearer(token)) for token in tokens
        ]
        for _ in tokens:
            front.running.core.next_kept()
        callers_of = [call.principal for call in front.running.core.kept]
        for call in front.running.core.kept:
            call.respond(b"")
        assert [future.result() for future in futures] == [b""] * 4

    assert len(set(callers_of)) == 2
    assert {one.name for one in callers_of if one is not None} == {"scenarios", "signed"}


def test_wrong_tokens(kind: str, tmp_path: Path) -> None:
    """Each is refused with what is wrong, in every method, before its request reaches the service; none is logged."""
    with guarded(kind, tmp_path) as front, capture_logs() as logs:
        for token, why in [*bad_tokens(front.key), (EXPIRED, "the token has expired")]:
            code, named, text = refusal(lambda token=token: front.score(token))  # type: ignore[misc]
            assert (code, named) == (UNAUTHENTICATED, "TOKEN_INVALID")
            assert why in text
            assert token[:20] not in text
            assert token not in str(logs)
        code, named, text = refusal(lambda: front.score(None))
        assert (code, named) == (UNAUTHENTICATED, "TOKEN_MISSING")
        assert '"authorization: Bearer <token>"' in text
        twice = [*bearer(TOKEN), *bearer(TOKEN)]
        score = front.running.method("Score")
        assert refusal(lambda: score(b"x", timeout=WAIT, metadata=twice))[:2] == (UNAUTHENTICATED, "TOKEN_INVALID")
        assert front.running.core.handled == 0
        # Large ones are refused without being received, or read.
        assert refusal(lambda: front.score(None, bytes(50_000)))[0] == UNAUTHENTICATED
        assert front.score(TOKEN) == b"Score:x"


def test_the_longest_token(kind: str, tmp_path: Path) -> None:
    """A token may have 8 KiB beside other metadata, each time it is sent."""
    with guarded(kind, tmp_path) as front:
        token = next(
            one for size in range(5_000, 8_000) if 8_189 <= len(one := front.key.token(pad="x" * size)) <= 8_192
        )
        score = front.running.method("Score")
        metadata = [*bearer(token), ("traceparent", "x" * 1_000)]
        assert [score(b"x", timeout=WAIT, metadata=metadata) for _ in range(20)] == [b"Score:x"] * 20


def test_streams_and_reflection(kind: str, tmp_path: Path) -> None:
    """Both streams and reflection need a token, at their begin; what they send then has the caller."""
    with guarded(kind, tmp_path) as front:
        running = front.running
        reflect = front.stub(reflection_pb2_grpc.ServerReflectionStub).ServerReflectionInfo
        ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
        watch: Any = running.channel.unary_stream("/prinz.enricher.v1.EnricherService/WatchModels")
        score: Any = running.channel.stream_stream("/prinz.enricher.v1.EnricherService/ScoreStream")
        for open_stream in (
            lambda given: watch(b"", timeout=WAIT, metadata=given),
            lambda given: score(iter([b""]), timeout=WAIT, metadata=given),
            lambda given: reflect(iter(ask), timeout=WAIT, metadata=given),
        ):
            assert refusal(lambda given=open_stream: next(given([])))[0] == UNAUTHENTICATED  # type: ignore[misc]
        assert not running.core.sources

        assert next(reflect(iter(ask), timeout=WAIT, metadata=bearer(TOKEN))).list_services_response.service
        watching = watch(b"", timeout=WAIT, metadata=bearer(front.key.token(sub="watcher")))
        assert running.core.came.acquire(timeout=WAIT)
        assert [one.name for one in running.core.principals if one is not None] == ["watcher"]
        running.core.sources[0].put(b"event")
        assert next(watching) == b"event"


def test_health_by_rules(kind: str, tmp_path: Path) -> None:
    """Health is for all, but that of a model is as unknown as no model's to who may not list it."""
    rule = AccessRule(principals=("scenarios",), models=("wine",), methods=("list",))
    with guarded(kind, tmp_path, rules=AccessRules([rule])) as front:
        front.running.front.set_health({"": True, "model/wine": True, "model/secret": True})
        health = front.stub(health_pb2_grpc.HealthStub)

        def check(service: str, token: str | None) -> Any:
            request = health_pb2.HealthCheckRequest(service=service)
            return health.Check(request, timeout=WAIT, metadata=bearer(token)).status

        assert check("", None) == check("", "nonsense") == check("model/wine", TOKEN) == 1
        unknown = refusal(lambda: check("model/none", TOKEN))
        hidden = [
            ("model/wine", None),
            ("model/wine", front.key.token(sub="other")),
            ("model/secret", TOKEN),
            ("model/", TOKEN),
        ]
        assert [refusal(lambda: check(*one)) for one in hidden] == [unknown] * 4  # noqa: B023
        request = health_pb2.HealthCheckRequest(service="model/wine")
        seen = health.Watch(request, timeout=WAIT, metadata=bearer(TOKEN))
        unseen = health.Watch(request, timeout=WAIT)
        assert (next(seen).status, next(unseen).status) == (1, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


def test_a_token_that_takes_long_to_verify(kind: str) -> None:
    """Calls of others are answered meanwhile; too many such are OVERLOADED; one that has gone is not scored."""
    slow = SlowAuthenticator()
    known = Callers(slow, tokens=True, certificates=False)  # type: ignore[arg-type]
    known._room = threading.Semaphore(2)
    with running_front(kind, FrontSecurity(known)) as running:
        score = running.method("Score")
        first = score.future(b"x", timeout=WAIT, metadata=bearer("slow"))
        gone = score.future(b"x", timeout=WAIT, metadata=bearer("slow"))
        eventually(lambda: slow.asked == 2)
        assert score(b"y", timeout=WAIT, metadata=bearer("fast")) == b"Score:y"
        assert refusal(lambda: score(b"z", timeout=WAIT, metadata=bearer("slow")))[1] == "OVERLOADED"
        gone.cancel()
        slow.go.set()
        assert first.result() == b"Score:x"
        assert refusal(lambda: score(b"z", timeout=WAIT, metadata=bearer("bad")))[1] == "TOKEN_INVALID"
        eventually(lambda: known._room._value == 2)
        assert score(b"z", timeout=WAIT, metadata=bearer("slow")) == b"Score:z"
        assert refusal(lambda: score(b"z", timeout=WAIT, metadata=bearer("fault")))[1] == "INTERNAL"
        with ThreadPoolExecutor(8) as threads:
            calls = threads.map(lambda _: score(b"z", timeout=WAIT, metadata=bearer("fast")), range(200))
        assert set(calls) == {b"Score:z"}
    known.close()


@dataclass
class SlowAuthenticator:
    """Knows a token at once, and others when it may go on."""

    go: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    caller: Principal = field(default_factory=lambda: Principal("x"))

    def known(self, authorization: str | None, certificate: ClientCertificate | None) -> Principal | None:
        """Return the caller of the token that is known."""
        return self.caller if authorization == "Bearer fast" else None

    def verify(self, authorization: str | None, certificate: ClientCertificate | None) -> Principal | TokenInvalid:
        """Wait, and return the caller."""
        self.asked += 1
        assert self.go.wait(WAIT)
        if authorization == "Bearer fault":
            raise RuntimeError("a fault")
        return TokenInvalid("bad") if authorization == "Bearer bad" else self.caller


@pytest.mark.slow
def test_tokens_are_exchanged_under_load(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and keys change twenty times while callers call with those that are good: no call fails."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    with guarded(kind, tmp_path) as front:
        done, counts, good = threading.Event(), [0, 0], [[TOKEN], [front.key.token()]]

        def call(which: int) -> None:
            while not done.is_set():
                assert front.score(good[which][-1]) == b"Score:x"
                counts[which] += 1

        with ThreadPoolExecutor(2) as threads:
            calling = [threads.submit(call, which) for which in range(2)]
            old, key = sha256(TOKEN.encode()).hexdigest(), front.key
            for turn in range(20):
                new, next_key = f"token-{turn}", SigningKey(str(turn))
                digest = sha256(new.encode()).hexdigest()
                entries = "".join(f'[[token]]\nname = "x"\nsha256 = "{one}"\n' for one in (old, digest))
                for name, content in (("tokens.toml", entries.encode()), ("jwks.json", jwks(key, next_key))):
                    (tmp_path / "new").write_bytes(content)
                    (tmp_path / "new").replace(tmp_path / name)
                for which, token in enumerate((new, next_key.token())):
                    eventually(lambda token=token: front.accepts(token))  # type: ignore[misc]
                    good[which].append(token)
                    before = counts[which]
                    eventually(lambda which=which, before=before: counts[which] > before + 2)  # type: ignore[misc]
                old, key = digest, next_key
            done.set()
            for one in calling:
                one.result()


def test_calls_are_noted(kind: str, tmp_path: Path) -> None:
    """Each call is noted with its caller, and ends once: answered, refused, cancelled, or by a stream's end."""
    log = Log()
    with guarded(kind, tmp_path, log=log) as front:
        front.score(TOKEN)
        front.score(front.key.token())
        refusal(lambda: front.score(TOKEN, b"refuse"))
        refusal(lambda: front.score(None))
        refusal(lambda: front.score(SigningKey("one").token()))
        left = front.running.method("Score").future(b"keep", timeout=WAIT, metadata=bearer(TOKEN))
        kept = front.running.core.next_kept()
        left.cancel()
        eventually(lambda: len(log.records) == 6 and bool(log.records[-1].ends))
        kept.respond(b"late")
        future = front.running.method("Score").future(b"keep", timeout=0.2, metadata=bearer(TOKEN))
        eventually(future.done)
        eventually(lambda: len(log.records) == 7 and bool(log.records[-1].ends))

    assert all(record.peer for record in log.records)
    *noted, late = [[record.method, record.principal, *record.ends] for record in log.records]
    assert [tuple(one) for one in noted] == [
        ("Score", "scenarios", 0), ("Score", "scenarios", 0), ("Score", "scenarios", 5), ("Score", "", 16),
        ("Score", "", 16), ("Score", "scenarios", 1),
    ]  # fmt: skip
    # The caller may cancel the call a moment before its deadline has passed here.
    assert late in (["Score", "scenarios", 4], ["Score", "scenarios", 1])


def test_streams_are_noted(kind: str) -> None:
    """A stream is noted, and each message of a ScoreStream; what is open at its end was cancelled."""
    log = Log()
    with running_front(kind, log=log) as running:
        stream = running.score_stream()
        stream.send(1, b"x")
        stream.send(2, b"refuse")
        assert {stream.receive()[0], stream.receive()[0]} == {1, 2}
        stream.send(3, b"keep")
        running.core.next_kept()
        stream.call.cancel()
        watching = running.watch(b"")
        assert running.core.came.acquire(timeout=WAIT)
        running.core.sources[0].put(to_status(Overloaded("enough")))
        refusal(lambda: next(watching))
        refusal(lambda: next(running.watch(b"refuse")))
        eventually(lambda: len(log.records) == 6 and all(record.ends for record in log.records))

    noted = [(record.method, *record.ends) for record in log.records]
    assert noted == [
        ("ScoreStream", 1),
        ("Score", 0),
        ("Score", 5),
        ("Score", 1),
        ("WatchModels", 8),
        ("WatchModels", 5),
    ]


def test_calls_over_a_quota(kind: str, tmp_path: Path) -> None:
    """A call that the log refuses does not reach the service, and says when to retry, as gRPC's clients obey."""
    with guarded(kind, tmp_path, log=Log(refused="scenarios")) as front:
        with pytest.raises(grpc.RpcError) as raised:
            front.score(TOKEN)
        trailing: Any = raised.value
        assert dict(trailing.trailing_metadata())["grpc-retry-pushback-ms"] == "250"
        assert refusal(lambda: front.score(TOKEN))[1] == "QUOTA_EXCEEDED"
        opened: Any = front.running.channel.stream_stream("/prinz.enricher.v1.EnricherService/ScoreStream")
        assert refusal(lambda: next(opened(iter([b""]), timeout=WAIT, metadata=bearer(TOKEN))))[1] == "QUOTA_EXCEEDED"
        assert front.running.core.handled == 0
        assert front.score(front.key.token(sub="another")) == b"Score:x"


ODD_PATHS = [
    "/prinz.enricher.v1.EnricherService/Score/",
    "//prinz.enricher.v1.EnricherService/Score",
    "/prinz.enricher.v1.EnricherService//Score",
    "/prinz.enricher.v1.EnricherService/./Score",
    "/prinz.enricher.v1.EnricherService/%53core",
    "/prinz.enricher.v1.EnricherService/score",
    "/PRINZ.enricher.v1.EnricherService/Score",
    "prinz.enricher.v1.EnricherService/Score",
    "/prinz.enricher.v1.EnricherService",
    "http://localhost/prinz.enricher.v1.EnricherService/Score",
    "/grpc.health.v1.Health/../../prinz.enricher.v1.EnricherService/Score",
    "/grpc.health.v1.Health/Score",
]
"""Paths that are almost that of a method."""


def test_odd_paths(kind: str, tmp_path: Path) -> None:
    """A method has one path: what is only like it is UNIMPLEMENTED, or no HTTP/2 at all, with a token and without."""
    with guarded(kind, tmp_path) as front:
        for path in ODD_PATHS:
            broken = kind != "grpcio" and not path.startswith("/")
            expected = grpc.StatusCode.INTERNAL if broken else grpc.StatusCode.UNIMPLEMENTED
            assert [front.code(path, token) for token in (None, TOKEN)] == [expected] * 2, path
        assert front.running.core.handled == 0
        assert front.score(TOKEN) == b"Score:x"


def test_paths_with_a_query(kind: str, tmp_path: Path) -> None:
    """A query is part of the path; a fragment too, but for the Rust front, which calls the method in all else."""
    unknown, dropped = [grpc.StatusCode.UNIMPLEMENTED] * 2, [UNAUTHENTICATED, grpc.StatusCode.OK]
    codes = {"grpcio": (unknown, unknown), "rust": (unknown, dropped)}
    with guarded(kind, tmp_path) as front:
        for path, expected in zip(("Score?x=1", "Score#x"), codes[kind], strict=True):
            whole = f"/prinz.enricher.v1.EnricherService/{path}"
            assert [front.code(whole, token) for token in (None, TOKEN)] == expected
