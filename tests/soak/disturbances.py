"""What happens to the services meanwhile, what callers may hear of it, and how long it may take to be over."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.soak import models
from tests.soak.callers import answered, columns_request, failed, next_id, stub_of
from tests.soak.ledger import Answered, Failed, Question
from tests.soak.service import TIMEOUT, Service, kill
from tests.support.certificates import Authority
from tests.support.cutting_proxy import CuttingProxy
from tests.support.model_server import ModelServer, Reply, Request
from tests.support.registry_writer import RegistryWriter
from tests.support.worker_processes import runs, workers_of

PAUSE: Final = (1.0, 5.0)
"""Seconds between two disturbances of a kind of thread."""

NOTICE_SECONDS: Final = 120.0
"""How long a service may take until it does as the registry, a new worker or a new file says."""

POLL: Final = 0.1
USED: Final = frozenset((*models.FACTORS, (models.TEXTS, "1"), (models.SHARED, "1")))
"""The versions that are in use all the time."""


class Certificates:
    """The certificate of the services, in a folder behind a link that leads to another one after a rotation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.authority = Authority(folder)
        self.link = folder / "current"
        self.rotate()

    @property
    def pair(self) -> tuple[Path, Path]:
        """The files of certificate and key."""
        return self.link / "tls.crt", self.link / "tls.key"

    def rotate(self) -> None:
        """Exchange certificate and key at once, as Kubernetes does."""
        self._count += 1
        made = self.authority.server(f"server-{self._count}")
        place, link = self._folder / f"of-{self._count}", self._folder / "next"
        place.mkdir()
        made.certificate.rename(place / "tls.crt")
        made.key.rename(place / "tls.key")
        link.symlink_to(place)
        link.replace(self.link)

    def is_shown(self, port: int) -> bool:
        """Return whether a new connection to a port of this machine gets the certificate of the files."""
        context = ssl.create_default_context(cafile=self.authority.file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(self.pair[0].read_text())


class Upstream:
    """The model server elsewhere: answers, or is away."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self.away = False
        server.respond = self._respond

    def _respond(self, request: Request) -> Reply:
        self._server.requests.clear()
        if self.away:
            return Reply(b"{}", 503)
        if "json" not in request.headers["content-type"]:
            return Reply(b"{}", 415)
        return Reply(models.remote_answer(json.loads(request.body)))


class Disturber:
    """Threads that disturb the services until stopped: one what all of them use, one each of them.

    Args:
        services: The services.
        registry: Writes into the registry, past the proxy.
        proxy: The way of the services to the registry.
        upstream: The model server elsewhere.
        certificates: Those of the services with TLS.
        original: The source of the version that guests are made of.
    """

    def __init__(
        self,
        services: Sequence[Service],
        registry: RegistryWriter,
        proxy: CuttingProxy,
        upstream: Upstream,
        certificates: Certificates,
        original: str,
        seed: int,
    ) -> None:
        self._services = services
        self._registry = registry
        self._proxy = proxy
        self._upstream = upstream
        self._certificates = certificates
        self._original = original
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._ended = threading.Event()
        self._target = "1"
        self._guests = 0
        everywhere = (self._move, self._move, self._guest, self._guest, self._outage)
        around = (self._kill, self._kill, self._kill, self._kill_spare, self._rotate, self._remote_away)
        self._threads = [threading.Thread(target=self._run, args=(some,), daemon=True) for some in (everywhere, around)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once what is disturbed is as it was."""
        self._ended.set()
        for thread in self._threads:
            thread.join(4 * NOTICE_SECONDS)

    def _run(self, kinds: Sequence[Callable[[], None]]) -> None:
        # Each of them in a round, so that a short soak has all.
        left: list[Callable[[], None]] = []
        while not self._ended.wait(self._chance.uniform(*PAUSE)):
            left = left or self._chance.sample(kinds, len(kinds))
            kind = left.pop()
            try:
                kind()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
                for service in self._services:
                    service.ledger.fail(f"{kind.__name__} raised {type(error).__name__}: {error}")

    def _all_disturbed(
        self, what: str, reasons: Sequence[str] = (), names: Sequence[str] = models.NAMES, slack: float = 5.0
    ) -> ExitStack:
        stack = ExitStack()
        for service in self._services:
            stack.enter_context(service.ledger.disturbed(what, reasons, names, slack=slack))
        return stack

    def _wait(self, service: Service, what: str, happened: Callable[[], bool]) -> None:
        """Wait until something has happened; that it does not is a fault."""
        limit = time.monotonic() + NOTICE_SECONDS
        while not happened():
            if time.monotonic() > limit or not service.alive:
                service.ledger.fail(f"{what}: not within {NOTICE_SECONDS:.0f} s")
                return
            time.sleep(POLL)

    def _move(self) -> None:
        """Let the alias mean the other version."""
        with self._all_disturbed("move of the alias"):
            self._point_to("2" if self._target == "1" else "1")
            self._see_target()

    def _point_to(self, version: str) -> None:
        for service in self._services:
            service.ledger.targets.may_be(self._target, version)
        self._target = version
        self._registry.set_alias(models.MOVING, models.ALIAS, version)

    def _see_target(self) -> None:
        """Wait until the version answers; from then on no other may."""
        for service in self._services:
            with service.channel() as channel:
                stub = stub_of(channel)

                def moved(service: Service = service, stub: Any = stub) -> bool:
                    outcome = self._ask(service, stub, models.MOVING, models.ALIAS)
                    return isinstance(outcome, Answered) and outcome.version == self._target

                self._wait(service, f"the alias means {self._target}, but another version answers", moved)
                service.ledger.targets.may_be(self._target)

    def _ask(self, service: Service, stub: Any, model: str, alias: str = "", unless: str = "") -> Answered | Failed:
        """Score some rows, and have the outcome judged, but for an error with a reason that says nothing yet."""
        question = Question(
            "by the disturber", model, models.numbers(2, self._chance), alias=alias, request_id=next_id()
        )
        began = time.monotonic()
        call = stub.Score.future(columns_request(question), timeout=TIMEOUT)
        error = call.exception()
        outcome = answered(call.result()) if error is None else failed(error)
        if not (isinstance(outcome, Failed) and outcome.reason == unless):
            service.ledger.judge(question, began, outcome)
        return outcome

    def _guest(self) -> None:
        """Register a model, score it as soon as it is there, and delete it."""
        self._guests += 1
        name = f"{models.GUEST}-{self._guests}"
        with self._all_disturbed("guest", names=[name]):
            self._registry.create_model(name)
            self._registry.copy_version(name, self._original)
            for service in self._services:
                with service.channel() as channel:
                    stub = stub_of(channel)

                    def scored(service: Service = service, stub: Any = stub) -> bool:
                        answer = self._ask(service, stub, name, unless="MODEL_NOT_FOUND")
                        return isinstance(answer, Answered)

                    with service.ledger.disturbed(
                        "arrival of a guest", ["VERSION_NOT_FOUND", "MODEL_LOADING"], [name], slack=0.0
                    ):
                        self._wait(service, f"{name} is registered, and not scored", scored)
                    for _ in range(5):
                        self._ask(service, stub, name)
            self._registry.delete_model(name)
            for service in self._services:

                def gone(service: Service = service) -> bool:
                    return name not in service.scrape().models()

                self._wait(service, f"{name} is deleted, and still has series", gone)

    def _outage(self) -> None:
        """Cut services and registry apart, in half of the cases while the alias moves; nobody may notice."""
        with self._all_disturbed("outage of the registry"):
            self._proxy.away = True
            try:
                if self._chance.random() < 0.5:
                    self._point_to("2" if self._target == "1" else "1")
                self._ended.wait(self._chance.uniform(2.0, 12.0))
            finally:
                self._proxy.away = False
            self._see_target()

    def _kill(self) -> None:
        """Kill a worker at its work."""
        service = self._chance.choice(self._services)
        workers = workers_of(service.pid)
        if workers:
            pid = self._chance.choice(workers)
            # A hurried caller may come while its model is loaded again.
            with service.ledger.disturbed(f"kill of worker {pid}", late=["MODEL_LOADING"]):
                kill(pid)
                gone = partial(_is_gone, pid)
                self._wait(service, f"worker {pid} was killed, and still runs", gone)
                loaded = partial(_are_loaded, service)
                self._wait(service, f"worker {pid} was killed, and is not replaced", loaded)

    def _kill_spare(self) -> None:
        """Kill the process that workers are forked from, which nobody may notice."""
        service = self._chance.choice(self._services)
        spares = [pid for pid in _children(service.pid) if _name(pid) == "prinz-spare"]
        with service.ledger.disturbed(f"end of spare {spares}"):
            for pid in spares:
                kill(pid)
            self._ended.wait(2.0)

    def _rotate(self) -> None:
        """Exchange certificate and key."""
        secure = [service for service in self._services if service.ca is not None]
        with self._all_disturbed("rotation of the certificate"):
            self._certificates.rotate()
            for service in secure:
                for port in (service.serve.port, service.admin_port):
                    shown = lambda port=port: self._certificates.is_shown(port)  # noqa: E731
                    self._wait(service, f"port {port} does not show the new certificate", shown)

    def _remote_away(self) -> None:
        """Let the model server elsewhere refuse everything."""
        reasons = ["UPSTREAM_UNAVAILABLE"]
        # A base URL that failed is left out for up to ten seconds.
        with self._all_disturbed("absence of the model server", reasons, [models.REMOTE], slack=15.0):
            self._upstream.away = True
            try:
                self._ended.wait(self._chance.uniform(1.0, 5.0))
            finally:
                self._upstream.away = False


def _is_gone(pid: int) -> bool:
    return not runs(pid)


def _are_loaded(service: Service) -> bool:
    return service.scrape().available() >= USED


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names alone
        try:
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split())
        except OSError:
            continue
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
