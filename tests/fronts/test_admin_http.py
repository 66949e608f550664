"""The admin HTTP server, over real connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from prinz_enricher import __version__
from prinz_enricher.catalog import CatalogState
from prinz_enricher.config import MIB, ConfigError, HttpSettings, Settings
from prinz_enricher.fronts.admin import http_server
from prinz_enricher.fronts.admin.admin_http import AdminHttpError, AdminHttpServer
from tests.support.deadline import wait_until

SECRET = "the secret of these tests"  # noqa: S105 - it is
KNOWN = CatalogState(
    models=3, versions=7, faults=1, revision="r", age=2.5, stale=False, fault="",
    last_refresh_seconds=0.25, failures_in_row=0, refreshes=9,
)  # fmt: skip
UNKNOWN = replace(KNOWN, models=0, versions=0, faults=0, age=None, stale=True, fault="nobody is there")


@dataclass
class Room:
    """What is behind a door."""

    states: dict[str, CatalogState] = field(default_factory=lambda: {"default": KNOWN})
    draining: bool = False
    refreshed: int = 0
    http: httpx.Client = field(init=False)
    port: int = field(init=False)

    def deliver(self, body: bytes = b"{}", *, secret: str = SECRET, age: int = 0, **headers: str) -> httpx.Response:
        """Send a delivery, signed by MLflow's own code."""
        delivery_id, timestamp = headers.pop("delivery_id", str(uuid4())), str(int(time()) - age)
        signature = _generate_hmac_signature(secret, delivery_id, timestamp, body.decode())
        sent = {"X-MLflow-Delivery-Id": delivery_id, "X-MLflow-Timestamp": timestamp, "X-MLflow-Signature": signature}
        return self.http.post("/webhook", content=headers.pop("content", body), headers=sent)


@dataclass
class RoomCatalog:
    """The catalog of a room, and its event `ready`."""

    room: Room
    current: None = None

    def states(self) -> dict[str, CatalogState]:
        """Return the states of the room."""
        return self.room.states

    @property
    def ready(self) -> RoomCatalog:
        """Itself."""
        return self

    def is_set(self) -> bool:
        """Return whether a registry was read."""
        return any(state.age is not None for state in self.room.states.values())

    def request_refresh(self) -> None:
        """Count."""
        self.room.refreshed += 1


@contextmanager
def door(**settings: object) -> Iterator[Room]:
    """Open a door on a free port of loopback."""
    room = Room()
    opened = AdminHttpServer(
        HttpSettings.model_validate({"port": 0, **settings}), cast("Any", RoomCatalog(room)), lambda: room.draining
    )
    room.port = opened.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{room.port}", trust_env=False, timeout=30) as room.http:
            yield room
    finally:
        opened.stop()


@pytest.fixture
def room() -> Iterator[Room]:
    """A door that takes webhooks."""
    with door(webhook_secret=SECRET) as opened:
        yield opened


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the values of an exposition by name and labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics(room: Room) -> None:
    """What the catalogs tell is there for each registry, and no age of one that was never read."""
    room.states = {"default": KNOWN, "other": UNKNOWN}

    answer = room.http.get("/metrics")
    found = samples(answer.text)

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found["prinz_enricher_info", (("version", __version__),)] == 1
    of_default = {
        name.removeprefix("prinz_enricher_catalog_"): value
        for (name, labels), value in found.items()
        if ("registry", "default") in labels
    }
    assert of_default == {
        "age_seconds": 2.5, "stale": 0, "models": 3, "versions": 7, "faults": 1,
        "failures_in_row": 0, "last_refresh_duration_seconds": 0.25, "refreshes_total": 9,
    }  # fmt: skip
    other = (("registry", "other"),)
    assert found["prinz_enricher_catalog_stale", other] == 1
    assert ("prinz_enricher_catalog_age_seconds", other) not in found
    assert found["process_resident_memory_bytes", ()] > MIB


def test_openmetrics(room: Room) -> None:
    """Prometheus, which asks for OpenMetrics, gets it."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = room.http.get("/metrics", headers={"Accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_probes(room: Room) -> None:
    """Ready is who knows the catalog of one registry, however old, and does not drain; alive is who answers."""
    room.states = {"default": UNKNOWN}
    before = room.http.get("/readyz")
    room.states = {"default": replace(KNOWN, stale=True, fault="it is down", age=1e6), "other": UNKNOWN}
    known = room.http.get("/readyz")
    room.draining = True
    draining = room.http.get("/readyz")

    assert (before.status_code, before.json()["why"]) == (503, "no registry is known, or one was not looked at yet")
    assert (known.status_code, known.json()) == (200, {
        "ready": True,
        "why": "",
        "registries": {
            "default": {"age_seconds": 1e6, "stale": True, "fault": "it is down"},
            "other": {"age_seconds": None, "stale": True, "fault": "nobody is there"},
        },
    })  # fmt: skip
    assert (draining.status_code, draining.json()["why"]) == (503, "the service is draining")
    assert room.http.get("/healthz").json() == {"status": "ok"}
    head = room.http.head("/readyz")
    assert (head.status_code, head.content) == (503, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "/webhook", 405), ("GET", "/healthz/../x", 404)],
)
def test_other_requests(room: Room, method: str, path: str, status: int) -> None:
    """Another path is not found, another method is not allowed."""
    assert room.http.request(method, path).status_code == status


def test_webhook_refreshes(room: Room) -> None:
    """A genuine delivery is answered 204 and requests a refresh; a replay is 409 and does not."""
    accepted = room.deliver(delivery_id="one")
    replayed = room.deliver(delivery_id="one")

    assert (accepted.status_code, accepted.content) == (204, b"")
    assert replayed.status_code == 409
    assert room.refreshed == 1
    found = samples(room.http.get("/metrics").text)
    assert {labels[0][1]: n for (name, labels), n in found.items() if name.endswith("webhook_deliveries_total")} == {
        "accepted": 1, "refused": 0, "replayed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "delivery",
    [{"secret": "wrong"}, {"age": 400}, {"age": -400}, {"content": b'{"tampered": 1}'}, {"delivery_id": "a.b"}],
)
def test_webhook_refuses(room: Room, delivery: dict[str, Any]) -> None:
    """A wrong secret, time, body or id is refused in the same words, and requests no refresh."""
    answer = room.deliver(**delivery)

    assert (answer.status_code, answer.content) == (401, b"")
    assert room.refreshed == 0


def test_body_that_is_no_json_refreshes(room: Room) -> None:
    """The body is signed, and never looked into; it may have a mebibyte."""
    assert room.deliver(b"\x00{[" + b"x" * (MIB - 3)).status_code == 204
    assert room.refreshed == 1


def test_closed_webhook() -> None:
    """Without a secret there is no webhook, and no body of a kilobyte size is taken."""
    with door() as room:
        assert room.deliver().status_code == 404
        assert room.http.get("/webhook").status_code == 404
        assert room.refreshed == 0
        assert first_line(room.port, b"POST /webhook HTTP/1.1\r\nContent-Length: 5000\r\n\r\n").startswith(
            "HTTP/1.1 413"
        )


def test_rotation(tmp_path: Path) -> None:
    """Each line of the file is a secret, beside the one of the settings; a file that changes is read again."""
    file = tmp_path / "secrets"
    file.write_text("first\r\n\nsecond\n")
    with door(webhook_secret=SECRET, webhook_secret_file=str(file)) as room:
        assert [room.deliver(secret=s).status_code for s in (SECRET, "first", "second", "third", "")] == [
            204, 204, 204, 401, 401,
        ]  # fmt: skip
        file.write_text("third")
        assert [room.deliver(secret=s).status_code for s in (SECRET, "second", "third")] == [204, 401, 204]
        file.unlink()
        assert room.deliver(secret="third").status_code == 503  # noqa: S106 - of this test


def test_refusals_are_told_seldom() -> None:
    """Many refused deliveries make one line of the log, without what they hold, nor the secret."""
    with capture_logs() as lines, door(webhook_secret=SECRET) as room:
        for _ in range(50):
            room.deliver(secret="wrong")  # noqa: S106 - of this test

    told = [line for line in lines if line["log_level"] == "warning"]
    assert told == [
        {"event": "webhook delivery not accepted", "why": "it is refused", "deliveries": 1, "log_level": "warning"}
    ]
    assert SECRET not in str(lines)


def test_secret_is_not_shown(tmp_path: Path) -> None:
    """The secret is in no text of the settings, and a wrong setting beside it does not tell it."""
    settings = Settings.load({"http": {"port": 0, "webhook_secret": SECRET}}, environment={})
    with pytest.raises(ConfigError) as raised:
        Settings.load({"http": {"port": -1, "webhook_secret": SECRET}}, environment={})
    with pytest.raises(ConfigError, match="needs a port") as closed:
        Settings.load({"http": {"webhook_secret_file": str(tmp_path)}}, environment={})
    with pytest.raises(AdminHttpError, match="webhook secret file"), door(webhook_secret_file=str(tmp_path / "none")):
        pass

    assert SECRET not in f"{settings!r} {settings} {raised.value} {closed.value}"


def test_port_that_is_taken(room: Room) -> None:
    """A port that is taken is one clear error."""
    with pytest.raises(AdminHttpError, match=f"can't listen on 127.0.0.1:{room.port} for HTTP: "), door(port=room.port):
        pass


def test_hundred_scrapes_at_once(room: Room) -> None:
    """A hundred scrapes at once are all answered."""
    start = threading.Barrier(100)

    def scrape(_: int) -> int:
        start.wait()
        return httpx.get(f"http://127.0.0.1:{room.port}/metrics", trust_env=False, timeout=60).status_code

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(scrape, range(100))) == {200}


def test_body_that_is_too_large(room: Room) -> None:
    """A body of over a mebibyte is refused before it is read."""
    head = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"

    assert first_line(room.port, head).startswith("HTTP/1.1 413")
    # No byte more than is read, or the answer would be lost in the reset of the connection.
    head = b"GET / HTTP/1.1\r\nX-Y: ".ljust(http_server.MAX_HEADER_BYTES, b"z")
    assert first_line(room.port, head).startswith("HTTP/1.0 431")
    assert first_line(room.port, b"\x16\x03\x01\x02\x00\r\n\r\n").startswith("HTTP/1.0 400")


def test_slow_connections_are_closed(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends a byte now and then is closed in time, while others are answered."""
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 1)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", room.port))) for _ in range(50)]
        for connection in slow:
            connection.sendall(b"POST /webhook HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
            connection.setblocking(False)

        def all_closed() -> bool:
            assert room.http.get("/healthz").status_code == 200
            slow[:] = [connection for connection in slow if not closed(connection, b"x")]
            return not slow

        wait_until(all_closed)


def test_more_connections_than_allowed(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many connections are open, the oldest makes room, and the newest is answered."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 600)
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", room.port))) for _ in range(40)]

        assert room.http.get("/healthz").status_code == 200
        for connection in idle:
            connection.setblocking(False)
        wait_until(lambda: sum(closed(connection) for connection in idle) >= 32)
        assert sum(closed(connection) for connection in idle) < 40


def test_door_outlives_a_fault_of_its_own(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in the thread that takes connections is logged, and the door answers on."""
    failed = threading.Event()

    def fail(*_: object) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError

    monkeypatch.setattr(http_server._Server, "maintenance", fail)

    assert failed.wait(30)
    assert room.http.get("/healthz").status_code == 200


def test_one_request_a_connection(room: Room) -> None:
    """A connection is closed after its answer."""
    assert room.http.get("/healthz").headers["connection"] == "close"


def test_door_of_ipv6() -> None:
    """The door listens on an IPv6 address too."""
    with door(host="::1") as room:
        assert httpx.get(f"http://[::1]:{room.port}/healthz", trust_env=False).status_code == 200


def test_closed_door_leaves_nothing() -> None:
    """After it was closed its port is free, and its threads have ended."""
    before = set(threading.enumerate())
    with door() as room:
        port = room.port
    with door(port=port) as room:
        assert room.http.get("/healthz").status_code == 200

    wait_until(lambda: set(threading.enumerate()) <= before)


def first_line(port: int, request: bytes) -> str:
    """Send raw bytes; return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.readline().decode()


def closed(connection: socket.socket, trickle: bytes = b"") -> bool:
    """Tell whether the other side has closed a connection; sends a few bytes before."""
    try:
        if trickle:
            connection.sendall(trickle)
        return connection.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_server_whose_loop_has_ended_is_closed() -> None:
    """The loop may see that it is to end before it is woken for that; nothing is written to a closed descriptor."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server.HttpServer(lambda _environ, _start: [], listener, max_body_bytes=1)
    server._stopping.set()
    server._thread.join()

    server.close()

    assert listener.fileno() == -1
