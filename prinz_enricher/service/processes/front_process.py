"""A front process: its start, what it is told, and its end."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.front import FrontError, open_front
from prinz_enricher.service.processes.begin import Begin, CatalogChange, News
from prinz_enricher.service.processes.codec import Batches, read_error, read_row, read_scores
from prinz_enricher.service.processes.frames import Frame, FrameReader, Kind
from prinz_enricher.service.processes.pool_adapter import SharedPool
from prinz_enricher.service.processes.replica import CatalogReplica, SharedChoice
from prinz_enricher.service.processes.sender import Sender
from prinz_enricher.service.routes import Routes
from prinz_enricher.telemetry import configure_logging

log = structlog.stdlib.get_logger(__name__)


def run(sock: socket.socket, number: int, *, settled: Callable[[], None]) -> int:
    """Be a front process until the main one says that it is enough, or has gone.

    Args:
        sock: To the main process.
        number: Of this process among those of the service.
        settled: Called once all is there.

    Returns:
        The exit code.
    """
    reader = FrameReader(sock)
    first = reader.read()
    if first is None or first.kind is not Kind.BEGIN:
        # The service ended while this process started.
        return 0
    begin: Begin = pickle.loads(first.body)  # noqa: S301 - from the process that started this one
    logging = begin.plan.logging
    configure_logging(logging.level, logging.format, number)
    process = _FrontProcess(sock, reader, begin)
    del first, begin
    if not process.catch_up():
        return 0
    settled()
    try:
        process.start()
    except FrontError as error:
        log.error("front process can't start", why=str(error))  # noqa: TRY400 - the sentence says all
        return 1
    return process.listen()


class _FrontProcess:
    """A front, its service, and the other side of each that the main process has."""

    def __init__(self, sock: socket.socket, reader: FrameReader, begin: Begin) -> None:
        plan, news = begin.plan, begin.news
        server = plan.server
        self._sock = sock
        self._reader = reader
        self._sender = Sender(sock)
        self._batches = Batches()
        self._pool = SharedPool(self._sender)
        self._pool.know(news.statuses or {}, ())
        self._catalog = CatalogReplica(begin.catalog, news.registries or (), self._sender)
        self._choice = SharedChoice(news.serving or {}, self._sender)
        self._service = EnricherService(
            self._catalog,
            self._pool,
            default_policy=plan.policy,
            limits=plan.limits,
            allowed_loaders=plan.allowed_loaders,
            environment_tag=plan.environment_tag,
            routes=Routes(plan.endpoints),
            chooser=self._choice,
            page_key=plan.page_key,
        )
        self._front = open_front(
            server.front,
            server.host,
            server.port,
            max_message_bytes=server.max_message_bytes,
            max_calls=server.max_calls,
            max_inflight_bytes=server.max_inflight_bytes,
            processes=server.processes,
        )
        # A front takes a while to tell its health, and may wait meanwhile for what the main process is asked.
        self._health = ThreadPoolExecutor(max_workers=1, thread_name_prefix="health")
        self._serving: dict[str, bool] = news.health or {}
        self._listening = False
        self._drained = False
        self._draining: threading.Thread | None = None

    def catch_up(self) -> bool:
        """Take in what changed while this process started, so that its first caller is not told of times gone by.

        Returns:
            Whether there is still a service to be a part of.
        """
        self._sender.send(Kind.SYNC)
        while (frame := self._reader.read()) is not None and frame.kind is not Kind.DRAIN:
            if frame.kind is Kind.SYNCED:
                return True
            self._take(frame)
        return False

    def start(self) -> None:
        """Listen.

        Raises:
            FrontError: The address can't be listened on.
        """
        self._front.start(self._service.handle, self._service.open_source)
        self._listening = True
        self._health.submit(self._front.set_health, self._serving)
        self._sender.send(Kind.READY)

    def listen(self) -> int:
        """Do what the main process says, until it has gone or this one has drained; returns the exit code."""
        while (frame := self._reader.read()) is not None:
            self._take(frame)
            # What is waited for next may take long; large scores must not wait with us.
            del frame
        if self._draining is not None:
            self._draining.join()
        if not self._drained:
            # The main process has gone, and nothing can be answered any more.
            self._drain(0.0)
            return 1
        return 0

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind is Kind.SCORES:
            meta = frame.meta
            self._pool.settle(frame.id, read_row(meta), read_scores(meta, self._batches.read(frame)))
        elif kind is Kind.FAILED:
            meta = frame.meta
            self._pool.settle(frame.id, read_row(meta), read_error(meta))
        elif kind is Kind.CATALOG:
            change: CatalogChange = pickle.loads(frame.body)  # noqa: S301 - from the process that started this one
            self._catalog.take_change(change)
        elif kind is Kind.NEWS:
            news: News = pickle.loads(frame.body)  # noqa: S301 - likewise
            self._take_news(news)
        elif kind is Kind.SYNCED:
            self._catalog.synced(frame.id)
        elif kind is Kind.DRAIN and self._draining is None:
            grace = frame.meta["grace"]
            # In a thread: what calls in flight came to is still received here.
            self._draining = threading.Thread(target=self._drain, args=(grace,), name="drain")
            self._draining.start()

    def _take_news(self, news: News) -> None:
        self._pool.know(news.statuses or {}, news.gone)
        if news.registries is not None:
            self._catalog.take_registries(news.registries)
        if news.serving is not None:
            self._choice.take(news.serving)
        if news.health is not None:
            self._serving = news.health
            if self._listening:
                # Once it drains, nobody is told any more.
                with contextlib.suppress(RuntimeError):
                    self._health.submit(self._front.set_health, news.health)

    def _drain(self, grace: float) -> None:
        self._health.shutdown()
        self._front.drain(grace)
        self._service.close()
        self._pool.close(0.0)
        self._drained = True
        self._sender.close()
