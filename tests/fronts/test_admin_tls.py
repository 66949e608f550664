"""The admin HTTP server with TLS, and metrics for callers that are known."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from prinz_enricher.config import AuthSettings, HttpSettings, TlsSettings
from prinz_enricher.errors import TokenMissing
from prinz_enricher.fronts.admin import http_server
from prinz_enricher.fronts.admin.admin_http import AdminHttpServer
from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.security import watched_files
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.certificates import CertificateFiles
from tests.support.certificates import Authority, Pair, self_signed
from tests.support.deadline import wait_until
from tests.support.issuer import SigningKey, bad_tokens, jwks, jwt_settings

TOKEN = "a token of these tests"  # noqa: S105 - it is


@dataclass
class NoCatalog:
    """A catalog of which nothing is known yet."""

    current: None = None
    ready: threading.Event = field(default_factory=threading.Event)

    def states(self) -> dict[str, Any]:
        """Return no state."""
        return {}


@dataclass
class Admin:
    """A server that runs, and whom it trusts."""

    authority: Authority
    files: CertificateFiles
    authenticator: Authenticator
    port: int

    def get(self, path: str, pair: Pair | None = None, ca: Path | None = None, **headers: str) -> httpx.Response:
        """Ask on a new connection."""
        return httpx.get(
            f"https://localhost:{self.port}{path}", verify=self.context(pair, ca), headers=headers, trust_env=False
        )

    def context(self, pair: Pair | None = None, ca: Path | None = None) -> ssl.SSLContext:
        """Return what a client needs."""
        context = ssl.create_default_context(cafile=str(ca or self.authority.file))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context


@contextmanager
def admin(folder: Path, *, mutual: bool = False, **auth: Any) -> Iterator[Admin]:
    """Run a server with a certificate of an authority of its own; by TOKEN, and by client certificates if mutual."""
    authority = Authority(folder)
    pair = authority.server()
    tokens = folder / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "prometheus"\nsha256 = "{sha256(TOKEN.encode()).hexdigest()}"\n')
    tls = TlsSettings(
        certificate=str(pair.certificate), key=str(pair.key), client_ca=str(authority.file) if mutual else ""
    )
    authenticator = Authenticator(AuthSettings(**(auth or {"tokens_file": str(tokens)})), client_certificates=mutual)
    files = CertificateFiles(tls)
    catalog = cast("Any", NoCatalog())
    server = AdminHttpServer(HttpSettings(port=0), catalog, lambda: False, authenticator, HttpTls(tls, files))
    port = server.start()
    try:
        yield Admin(authority, files, authenticator, port)
    finally:
        server.stop()
        files.stop()
        authenticator.close()


def test_metrics_need_a_token_and_probes_do_not(tmp_path: Path) -> None:
    """Without a token, or with a wrong one, /metrics is 401 and says why in one sentence, not what was sent."""
    with admin(tmp_path) as running:
        good = running.get("/metrics", Authorization=f"Bearer {TOKEN}")
        missing = running.get("/metrics")
        wrong = running.get("/metrics", Authorization="Bearer guessed-by-someone")
        probe = running.get("/healthz")

    assert (good.status_code, "prinz_enricher_info" in good.text, probe.status_code) == (200, True, 200)
    for answer, why in ((missing, "has no token"), (wrong, "the token is unknown")):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert why in answer.json()["error"]
        assert "guessed" not in answer.text


def test_a_client_certificate_is_enough(tmp_path: Path) -> None:
    """With client certificates, one names the caller of /metrics; who has none is 401, and may ask for health."""
    with admin(tmp_path, mutual=True) as running:
        named = running.authority.sign("prometheus", spiffe_id="spiffe://corp/prometheus")

        assert running.get("/metrics", named).status_code == 200
        assert running.get("/metrics").status_code == 401
        assert running.get("/healthz").status_code == 200


def test_bad_client_certificates(tmp_path: Path) -> None:
    """One that has expired, or that no authority of ours signed, is refused by TLS with its reason."""
    (tmp_path / "other").mkdir()
    with admin(tmp_path, mutual=True) as running:
        expired = running.authority.sign("late", expired=True)
        for pair, why in (
            (expired, "certificate expired"),
            (self_signed(tmp_path, "alone"), "unknown ca"),
            (Authority(tmp_path / "other").sign("stranger"), "unknown ca"),
        ):
            with pytest.raises(httpx.TransportError, match=f"(?i){why}"):
                running.get("/metrics", pair)


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    """TLS 1.1 is not spoken, and neither is plain HTTP; TLS 1.2 is."""
    with admin(tmp_path) as running:
        client = running.context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with connected(running) as plain, client.wrap_socket(plain, server_hostname="localhost") as connection:
            assert connection.version() == "TLSv1.2"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with connected(running) as plain, pytest.raises(OSError, match=r"SSL|reset|EOF"):
            old.wrap_socket(plain).close()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{running.port}/healthz", trust_env=False)


def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the files have changed, new connections get the new certificate; a bad one changes nothing."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    (tmp_path / "new").mkdir()
    with admin(tmp_path) as running:
        newer = Authority(tmp_path / "new")
        pair = newer.server()
        running.files.start()
        for name in ("certificate", "key"):
            replace_file(getattr(pair, name), tmp_path / f"server-{name}.pem")
        wait_until(lambda: running.files.current.chain == pair.certificate.read_bytes())

        assert running.get("/healthz", ca=newer.file).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            running.get("/healthz")

        (tmp_path / "server-certificate.pem").write_text("nothing")
        wait_until(lambda: running.files.failures == 1)
        assert running.get("/healthz", ca=newer.file).status_code == 200


def test_handshakes_that_never_end(tmp_path: Path) -> None:
    """Hundreds of half a handshake keep no probe waiting."""
    with admin(tmp_path) as running:
        hello = client_hello(running.context())
        half = [connected(running) for _ in range(200)]
        for number, connection in enumerate(half):
            connection.sendall(hello[: number * len(hello) // 200])
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: running.get("/healthz").status_code, range(16)))
        for connection in half:
            connection.close()

    assert answers == [200] * 16


@pytest.mark.slow
def test_handshakes_are_closed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose handshake does not end within the time of any connection is closed."""
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 1)
    with admin(tmp_path) as running, connected(running) as silent, connected(running) as half:
        half.sendall(client_hello(running.context())[:50])
        assert silent.recv(1) == half.recv(1) == b""


def test_a_body_in_many_records(tmp_path: Path) -> None:
    """A request in small pieces, one TLS record each or several at once, is received whole."""
    with admin(tmp_path) as running:
        request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        context = running.context()
        with connected(running) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            for byte in request:
                connection.sendall(bytes([byte]))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\n")


def test_web_tokens(tmp_path: Path) -> None:
    """A JWT is verified for /metrics too, and each kind of wrong one is 401 with its reason."""
    key = SigningKey("one")
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(key))
    with admin(tmp_path, jwt=jwt_settings(file)) as running:
        good = running.get("/metrics", Authorization=f"Bearer {key.token()}")
        assert good.status_code == 200
        for token, why in bad_tokens(key):
            refused = running.get("/metrics", Authorization=f"Bearer {token}")
            assert refused.status_code == 401
            assert why in refused.json()["error"]
            assert token not in refused.text


def test_probes_while_tokens_are_verified(tmp_path: Path) -> None:
    """Tokens that take long to verify leave threads to others: more of them are 503, and probes are answered."""
    with admin(tmp_path, jwt=jwt_settings(url="http://127.0.0.1:1/")) as running, ThreadPoolExecutor(3) as threads:
        going, asked = threading.Event(), threading.Semaphore(0)

        def wait(*_: object) -> TokenMissing:
            asked.release()
            assert going.wait(30)
            return TokenMissing()

        running.authenticator.known = lambda *_: None  # type: ignore[method-assign]
        running.authenticator.verify = wait  # type: ignore[method-assign, assignment]
        slow = [threads.submit(running.get, "/metrics") for _ in range(2)]
        for _ in slow:
            assert asked.acquire(timeout=30)
        refused, probe = running.get("/metrics"), running.get("/healthz")
        going.set()
        answers = [answer.result().status_code for answer in slow]

    assert (refused.status_code, probe.status_code, answers) == (503, 200, [401, 401])


@pytest.mark.slow
def test_exchange_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate and the tokens are exchanged twenty times while callers come: each is answered."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    with admin(tmp_path) as running:
        running.files.start()
        done, answers = threading.Event(), list[int]()

        def call() -> None:
            while not done.is_set():
                answers.append(running.get("/metrics", Authorization=f"Bearer {TOKEN}").status_code)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            former, pair = running.files.current, running.authority.server("next")
            with (tmp_path / "tokens.toml").open("a") as file:
                file.write(f'[[token]]\nname = "next"\nsha256 = "{sha256(b"%d" % turn).hexdigest()}"\n')
            for name in ("certificate", "key"):
                replace_file(getattr(pair, name), tmp_path / f"server-{name}.pem")
            wait_until(lambda former=former: running.files.current is not former)  # type: ignore[misc]
            count = len(answers)
            wait_until(lambda count=count: len(answers) > count + 3)  # type: ignore[misc]
        done.set()
        for thread in threads:
            thread.join()

    assert set(answers) == {200}


def replace_file(new: Path, old: Path) -> None:
    """Put a copy of a file in the place of another at once."""
    shutil.copy(new, f"{old}.tmp")
    Path(f"{old}.tmp").replace(old)


def connected(running: Admin) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", running.port), 10)


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return the first message of a client's handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()
