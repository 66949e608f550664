"""Callers in Python, in a process of its own: where there is no better generator, and where Python is the point.

`callers.py http|grpc|coalesced ...` takes the flags of load/generate.cc as far as it can, and prints the same JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import statistics
import struct
import threading
import time
from pathlib import Path

LEAST_CALLS = 3


class Count:
    """Answers within the time that counts; at least a few, however long they take."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._from = time.perf_counter() + options.warm
        self._end = self._from + options.seconds
        self._last = self._from
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self._errors = 0
        self._error = ""
        self._unexpected = 0
        self._started = (time.perf_counter(), time.process_time())
        # Where a call is long, those that are cut off at the end would count for nothing.
        self._least = LEAST_CALLS if options.callers == 1 else 0

    def took(self, began: float, *, right: bool) -> bool:
        """Take note of an answer; tells whether to go on."""
        now = time.perf_counter()
        with self._lock:
            if not right:
                self._unexpected += 1
            elif began >= self._from if self._least else self._from <= now < self._end:
                self._latencies.append(now - began)
                self._last = now
            return now < self._end or len(self._latencies) < self._least

    def failed(self, why: str) -> None:
        """Take note of an error, after which its caller stops."""
        with self._lock:
            self._errors += 1
            self._error = self._error or why

    def told(self) -> str:
        """Return the figures as JSON."""
        taken = self._latencies or [math.nan]
        cuts = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken * 99
        # One caller's calls are back to back: what they took together is the time they had.
        seconds = sum(taken) if self._least else self._end - self._from
        wall, cpu = (
            now - began for now, began in zip((time.perf_counter(), time.process_time()), self._started, strict=True)
        )
        return json.dumps(
            {
                "rate": len(self._latencies) / seconds if self._latencies else 0.0,
                "p50_ms": cuts[49] * 1e3 if self._latencies else -1.0,
                "p99_ms": cuts[98] * 1e3 if self._latencies else -1.0,
                "errors": self._errors,
                "error": self._error,
                "unexpected": self._unexpected,
                "cpu_share": cpu / wall,
            }
        )


def over_http(options: argparse.Namespace, content: bytes) -> str:
    """Call over HTTP: a thread and a connection for each caller."""
    count = Count(options)

    def caller() -> None:
        connection = http.client.HTTPConnection(options.address, timeout=options.timeout)
        going = True
        try:
            while going:
                began = time.perf_counter()
                connection.request("POST", options.method, content, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    count.failed(f"HTTP {answer.status}: {body[:200].decode(errors='replace')}")
                    return
                going = count.took(began, right=options.expect_text.encode() in body)
        except (OSError, http.client.HTTPException) as error:
            count.failed(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=caller) for _ in range(options.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count.told()


def over_grpc(options: argparse.Namespace, content: bytes) -> str:
    """Call over gRPC: all callers in one event loop."""
    import grpc

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

    async def run() -> str:
        count = Count(options)
        async with grpc.aio.insecure_channel(options.address, unlimited) as channel:
            method = channel.unary_unary(options.method)

            async def caller() -> None:
                going = True
                try:
                    while going:
                        began = time.perf_counter()
                        answer = await method(content, timeout=options.timeout)
                        going = count.took(began, right=_has(answer, options.expect_double))
                except grpc.RpcError as error:
                    count.failed(f"{error.code().name}: {error.details()}")

            await asyncio.gather(*(caller() for _ in range(options.callers)))
        return count.told()

    return asyncio.run(run())


def coalesced(options: argparse.Namespace, content: bytes) -> str:
    """Call by our own client, which puts calls together that come while others are on their way."""
    from prinz_enricher.client import AsyncClient, ServiceError, Tls

    row = json.loads(content)

    async def run() -> str:
        count = Count(options)
        tls = Tls(ca=options.ca) if options.ca else None
        async with AsyncClient(options.address, timeout=options.timeout, coalesce=True, tls=tls) as client:

            async def caller() -> None:
                going = True
                try:
                    while going:
                        began = time.perf_counter()
                        scores = await client.score(options.method, row)
                        value = scores.batch.column(0)[0].as_py()
                        going = count.took(began, right=math.isclose(value, options.expect_double, rel_tol=1e-9))
                except ServiceError as error:
                    count.failed(str(error))

            await asyncio.gather(*(caller() for _ in range(options.callers)))
        return count.told()

    return asyncio.run(run())


def _has(answer: bytes, number: float | None) -> bool:
    """Tell whether a double is somewhere among the bytes of an answer."""
    if number is None:
        return True
    return any(
        math.isclose(struct.unpack_from("<d", answer, at)[0], number, rel_tol=1e-9) for at in range(len(answer) - 7)
    )


def main() -> None:
    """Make a load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("http", "grpc", "coalesced"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--method", required=True, help="gRPC method, path, or model")
    parser.add_argument("--payload", required=True, type=Path)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--expect-double", type=float)
    parser.add_argument("--expect-text", default="")
    parser.add_argument("--ca", type=Path, help="certificates to verify the server with, by our client")
    options = parser.parse_args()
    make = {"http": over_http, "grpc": over_grpc, "coalesced": coalesced}[options.kind]
    print(make(options, options.payload.read_bytes()))


if __name__ == "__main__":
    main()
