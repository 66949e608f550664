"""The two sides of a front process in one: its pool, and the main process's pool that scores for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prinz_enricher.scoring import Target, WorkerPool
from prinz_enricher.service.processes.codec import Batches, Key, read_error, read_row, read_scores
from prinz_enricher.service.processes.frames import FrameReader, Kind
from prinz_enricher.service.processes.pool_adapter import SharedPool
from prinz_enricher.service.processes.pool_server import PoolServer
from prinz_enricher.service.processes.sender import Sender


@dataclass(frozen=True)
class Linked:
    """A pool, and what stands behind it.

    Attributes:
        pool: Of the front process.
        server: Of the main process.
    """

    pool: SharedPool
    server: PoolServer


@contextmanager
def linked(behind: WorkerPool, *targets: Target) -> Iterator[Linked]:
    """Link two pools by a socket, each read by a thread.

    Args:
        behind: The main process's pool.
        targets: What its catalog has.
    """
    known: dict[Key, Target] = {target.key: target for target in targets}
    main, front = socket.socketpair()
    with main, front:
        to_front, to_main = Sender(main), Sender(front)
        server, pool = PoolServer(behind, known.get, to_front), SharedPool(to_main)

        def serve() -> None:
            reader = FrameReader(main)
            while (frame := reader.read()) is not None:
                if frame.kind is Kind.SUBMIT:
                    server.submit(frame)
                elif frame.kind is Kind.CANCEL:
                    server.cancel(frame.id)
                elif frame.kind is Kind.LOAD:
                    server.load(frame)

        def settle() -> None:
            reader, batches = FrameReader(front), Batches()
            while (frame := reader.read()) is not None:
                if frame.kind is Kind.SCORES:
                    scores = read_scores(frame.meta, batches.read(frame))
                    pool.settle(frame.id, read_row(frame.meta), scores)
                else:
                    pool.settle(frame.id, read_row(frame.meta), read_error(frame.meta))

        threads = [threading.Thread(target=serve), threading.Thread(target=settle)]
        for thread in threads:
            thread.start()
        try:
            yield Linked(pool, server)
        finally:
            pool.close(0.0)
            to_front.close()
            to_main.close()
            for thread in threads:
                thread.join(30)
            behind.close(5.0)
