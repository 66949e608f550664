"""TLS and client certificates on the fronts that have TLS, and their exchange while they serve."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from prinz_enricher.config import AuthSettings, TlsSettings
from prinz_enricher.fronts.grpc import SERVICE, Callers, FrontSecurity
from prinz_enricher.security import watched_files
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.security.principal import Principal
from tests.support.call_log import Log
from tests.support.certificates import Authority, Pair, self_signed
from tests.support.deadline import wait_until
from tests.support.front_core import NEEDS_RUST, OPTIONS, WAIT, Core, make_front, refusal
from tests.support.issuer import SigningKey, jwks, jwt_settings

SCORE = f"/{SERVICE.full_name}/Score"


@pytest.fixture(params=["grpcio", pytest.param("rust", marks=NEEDS_RUST)])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front that has TLS."""
    return str(request.param)


@dataclass
class Secure:
    """A front with TLS, and what it trusts."""

    core: Core
    log: Log
    authority: Authority
    files: CertificateFiles
    callers: Callers
    port: int

    @contextmanager
    def channel(self, pair: Pair | None = None, ca: Path | None = None) -> Iterator[Any]:
        """Open a connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            (ca or self.authority.file).read_bytes(),
            pair.key.read_bytes() if pair else None,
            pair.certificate.read_bytes() if pair else None,
        )
        with grpc.secure_channel(f"localhost:{self.port}", credentials, options=OPTIONS) as channel:
            yield channel

    def score(self, pair: Pair | None = None, ca: Path | None = None, token: str = "") -> bytes:
        """Call on a new connection."""
        with self.channel(pair, ca) as channel:
            metadata = [("authorization", f"Bearer {token}")] if token else None
            answer: bytes = channel.unary_unary(SCORE)(b"x", timeout=WAIT, metadata=metadata)
            return answer

    def served(self) -> bytes:
        """Return the certificate that a new connection gets."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            found = connection.getpeercert(binary_form=True)
            assert found is not None
            return found


@contextmanager
def secure(
    kind: str, folder: Path, *, mutual: bool = False, auth: AuthSettings | None = None, **limits: Any
) -> Iterator[Secure]:
    """Run a front with a certificate of an authority of its own."""
    authority = Authority(folder)
    pair = authority.server()
    client_ca = str(authority.file) if mutual else ""
    files = CertificateFiles(TlsSettings(certificate=str(pair.certificate), key=str(pair.key), client_ca=client_ca))
    settings = auth or AuthSettings()
    authenticator = Authenticator(settings, client_certificates=mutual)
    callers = Callers(authenticator, tokens=settings.enabled, certificates=mutual)
    security = FrontSecurity(callers if mutual or auth else None, files)
    front, core, log = make_front(kind, security=security, **limits), Core(), Log()
    port = front.start(core.handle, core.open_source, log)
    try:
        yield Secure(core, log, authority, files, callers, port)
    finally:
        front.drain(0.1)
        files.stop()
        callers.close()
        authenticator.close()


def exchange(new: Pair, old: Pair) -> None:
    """Put a certificate and its key in the place of others, one after the other."""
    for name in ("certificate", "key"):
        copy = f"{getattr(old, name)}.tmp"
        shutil.copy(getattr(new, name), copy)
        Path(copy).replace(getattr(old, name))


def test_tls(kind: str, tmp_path: Path) -> None:
    """A client that trusts the authority is answered, and one that does not, or has no TLS, is not."""
    (tmp_path / "other").mkdir()
    with secure(kind, tmp_path) as front:
        assert front.score() == b"Score:x"
        assert refusal(lambda: front.score(ca=Authority(tmp_path / "other").file))[0] == grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(f"127.0.0.1:{front.port}", options=OPTIONS) as channel:
            plain: Any = channel.unary_unary(SCORE)
            assert refusal(lambda: plain(b"x", timeout=WAIT))[0] == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "words", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x15\x03\x01", b""], ids=["h2", "alert", "nothing"]
)
def test_caller_without_tls_is_closed_without_a_word(kind: str, tmp_path: Path, words: bytes) -> None:
    """A caller without TLS could not read a TLS alert; a connection that ends is UNAVAILABLE with each gRPC client."""
    with secure(kind, tmp_path) as front, socket.create_connection(("127.0.0.1", front.port), WAIT) as plain:
        plain.settimeout(WAIT)
        with contextlib.suppress(OSError):
            # The other end may have gone before all is sent.
            plain.sendall(words)
            plain.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(64) == b""


def test_client_certificates_name_the_caller(kind: str, tmp_path: Path) -> None:
    """A caller is its certificate's SPIFFE id, else its first DNS name, else its common name; a token goes before."""
    (tmp_path / "jwks.json").write_bytes(jwks(key := SigningKey("one")))
    with secure(kind, tmp_path, mutual=True, auth=AuthSettings(jwt=jwt_settings(tmp_path / "jwks.json"))) as front:
        sign = front.authority.sign
        names = ["a.example.com", "b.example.com"]
        named = {
            "spiffe://corp/nk/one": sign("spiffe", spiffe_id="spiffe://corp/nk/one", dns_names=names),
            "a.example.com": sign("dns", dns_names=names),
            "just a name": sign("just a name"),
        }
        for name, pair in named.items():
            with front.channel(pair) as channel:
                future = channel.unary_unary(SCORE).future(b"keep", timeout=WAIT)
                call = front.core.next_kept()
                call.respond(b"")
                assert future.result() == b""
                assert call.principal is not None
                assert call.principal.name == name
        with front.channel(named["a.example.com"]) as channel:
            metadata = [("authorization", f"Bearer {key.token(sub='scenarios')}")]
            future = channel.unary_unary(SCORE).future(b"keep", timeout=WAIT, metadata=metadata)
            call = front.core.next_kept()
            call.respond(b"")
            assert future.result() == b""
            assert call.principal is not None
            assert call.principal.name == "scenarios"
        forged = SigningKey("one").token()
        assert refusal(lambda: front.score(named["a.example.com"], token=forged))[1] == "TOKEN_INVALID"


def test_bad_client_certificates(kind: str, tmp_path: Path) -> None:
    """Who has none, or one that has expired or that no authority of ours signed, gets no connection."""
    (tmp_path / "other").mkdir()
    with secure(kind, tmp_path, mutual=True) as front:
        expired = front.authority.sign("late", expired=True)
        stranger = Authority(tmp_path / "other").sign("stranger")
        for pair in (None, expired, stranger, self_signed(tmp_path, "alone")):
            assert refusal(lambda pair=pair: front.score(pair))[0] == grpc.StatusCode.UNAVAILABLE  # type: ignore[misc]
        assert front.core.handled == 0


def test_a_new_certificate(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections get the new one, and never the old one again; a bad one is passed over, and counted."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    (tmp_path / "new").mkdir()
    with secure(kind, tmp_path) as front:
        front.files.start()
        other = Authority(tmp_path / "new")
        old, new = front.served(), other.server()
        own = Pair(*(tmp_path / f"server-{name}.pem" for name in ("certificate", "key", "locked_key", "both")))
        with front.channel() as before:
            score = before.unary_unary(SCORE)
            assert score(b"x", timeout=WAIT) == b"Score:x"
            exchange(new, own)
            wait_until(lambda: front.files.current.chain == new.certificate.read_bytes())
            served = front.served()
            assert served != old
            assert served == der(new)
            # The connection that there was goes on.
            assert score(b"x", timeout=WAIT) == b"Score:x"
        own.key.write_text("nothing")
        wait_until(lambda: front.files.failures == 1)
        assert front.score(ca=other.file) == b"Score:x"
        assert refusal(front.score)[0] == grpc.StatusCode.UNAVAILABLE


def der(pair: Pair) -> bytes:
    """Return a certificate as TLS sends it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_bytes(Encoding.DER)


def test_connections_grow_old(kind: str, tmp_path: Path) -> None:
    """A connection of the maximum age is left by its callers: no call fails, long ones end, and watches are ended."""
    with secure(kind, tmp_path, connection_seconds=0.3) as front, front.channel() as channel:
        long = channel.unary_unary(SCORE).future(b"keep", timeout=WAIT)
        call = front.core.next_kept()
        watching = channel.unary_stream(f"/{SERVICE.full_name}/WatchModels")(b"", timeout=WAIT)
        score = channel.unary_unary(SCORE)

        def has_left() -> bool:
            assert score(b"x", timeout=WAIT) == b"Score:x"
            return len({record.peer for record in front.log.records}) > 1

        assert refusal(lambda: next(watching))[:2] == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        wait_until(has_left)
        call.respond(b"late")
        assert long.result() == b"late"


@pytest.mark.slow
def test_exchange_under_load(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates, tokens and keys are exchanged twenty times while callers call: no call fails."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    keys = [SigningKey("0")]
    tokens, jwks_file = tmp_path / "tokens.toml", tmp_path / "jwks.json"

    def write(number: int) -> None:
        # The former two are still good, also for a call that is on its way while they are exchanged.
        keys.append(SigningKey(str(number)))
        put(jwks_file, jwks(*keys[-3:]))
        lines = (
            f'[[token]]\nname = "static"\nsha256 = "{sha256(b"token-%d" % known).hexdigest()}"\n'
            for known in (number - 2, number - 1, number)
        )
        put(tokens, "".join(lines).encode())

    write(1)
    auth = AuthSettings(tokens_file=str(tokens), jwt=jwt_settings(jwks_file))
    with secure(kind, tmp_path, mutual=True, auth=auth, connection_seconds=0.5) as front:
        front.files.start()
        pair, own = (
            front.authority.sign("caller"),
            Pair(*(tmp_path / f"server-{name}.pem" for name in ("certificate", "key", "locked_key", "both"))),
        )
        done, faults, number = threading.Event(), [], 1
        counts = [0] * 4

        def call(caller: int) -> None:
            while not done.is_set():
                with front.channel(pair) as channel:
                    score = channel.unary_unary(SCORE)
                    for _ in range(20):
                        token = f"token-{number}" if caller % 2 else keys[-2].token()
                        try:
                            score(b"x", timeout=WAIT, metadata=[("authorization", f"Bearer {token}")])
                        except grpc.RpcError as error:
                            faults.append(str(error))
                        counts[caller] += 1

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(2, 22):
            former = front.files.current
            write(turn)
            exchange(front.authority.server("next"), own)
            wait_until(lambda former=former: front.files.current is not former)  # type: ignore[misc]
            for token in (f"token-{turn}", keys[-1].token()):
                wait_until(
                    lambda shown=f"Bearer {token}": isinstance(front.callers.verify(shown).result(), Principal)  # type: ignore[misc]
                )
            before = list(counts)
            wait_until(lambda before=before: all(now > then + 4 for now, then in zip(counts, before, strict=True)))  # type: ignore[misc]
            number = turn
        done.set()
        for thread in threads:
            thread.join()
        assert front.served() == der(own)

    assert faults == []


def put(file: Path, content: bytes) -> None:
    """Write a file at once."""
    copy = Path(f"{file}.tmp")
    copy.write_bytes(content)
    copy.replace(file)
