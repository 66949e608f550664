"""The fuzzed server from outside: started, measured, called, and ended whatever happens."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from prinz_enricher.contract import enricher_service_pb2

ROOT = Path(__file__).resolve().parents[2]
SERVICE = enricher_service_pb2.DESCRIPTOR.services_by_name["EnricherService"].full_name
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class ServerProcess:
    """A server in a process of its own, so that a crash is a crash, and its memory is its own.

    Args:
        front: What speaks gRPC: `rust` or `grpcio`.

    Attributes:
        channel: A channel to it.
    """

    channel: grpc.Channel

    def __init__(self, front: str) -> None:
        self._front = front

    def __enter__(self) -> Self:
        """Start it, and wait until it listens."""
        # A file: a pipe that nobody reads would block it.
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server", self._front],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            told = self.log()
            self._end()
            raise AssertionError(f"the server does not start: {told}")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{int(line)}", OPTIONS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.channel.close()
        self._end()

    def _end(self) -> None:
        with self._process as process:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._log.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def ended(self) -> int | None:
        """The code with which it ended, negative for a signal; None where it runs."""
        return self._process.poll()

    def memory(self) -> int:
        """Return the bytes of memory that it holds."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Return the most bytes of memory that it ever held."""
        return self._status("VmHWM")

    def _status(self, key: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))

    def method(self, name: str) -> Any:
        """Return an RPC that takes and gives bytes."""
        return self.channel.unary_unary(f"/{SERVICE}/{name}")

    def log(self) -> str:
        """Return the end of its log; of a crash, what it was at."""
        self._log.flush()
        content = Path(f"/proc/self/fd/{self._log.fileno()}").read_bytes()
        crash = content.find(b"Current thread")
        return (content[-8_000:] if crash < 0 else content[crash : crash + 8_000]).decode(errors="replace")
