"""Parquet in bodies as Arrow streams. What reads it is a process that a damaged or hostile file can't get out of."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from prinz_enricher.errors import InvalidRequest, Overloaded

PARQUET: Final = "application/vnd.apache.parquet"

AT_OTHER_PLACES: Final = "has the names of inputs, but not all at their places: which values are meant is not clear"

SECONDS = 10.0  # How long a file may be read.
_START_SECONDS: Final = 20.0
_END_SECONDS: Final = 0.1
_PROGRAM: Final = str(Path(__file__).with_name("parquet_reader.py"))


class ParquetReader:
    """Has Parquet read by `parquet_reader`, which starts with the first file. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._files: socket.socket | None = None

    def read(self, body: bytes, names: Sequence[str], *, by_place: bool, max_bytes: int) -> tuple[bytes, list[str]]:
        """Return the columns of these names, or all without any, as an Arrow stream; and the names of the others.

        A pandas index is not a column. With `by_place` as many columns as names are taken under these in turn. Raises
        InvalidRequest where some of these are at other places then, where the body is not valid Parquet, and where
        reading it takes over four times `max_bytes` of memory.
        """
        asked = {"names": list(names), "by_place": by_place, "max_bytes": max_bytes, "seconds": SECONDS}
        with ExitStack() as stack:
            source, target = (stack.enter_context(os.fdopen(os.memfd_create("parquet"), "w+b")) for _ in range(2))
            ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
            source.write(json.dumps(asked).encode() + b"\n" + body)
            source.flush()
            self._hand_over([source.fileno(), target.fileno(), theirs.fileno()])
            theirs.close()
            # Until then what reads it has ended itself; the first time it has to start.
            ours.settimeout(SECONDS + _START_SECONDS)
            try:
                end = ours.recv(1)
            except TimeoutError:
                end = b""
            # A copy: the process could still write to what it shares.
            size = min(os.fstat(target.fileno()).st_size, 3 * max_bytes)
            ignored, _, stream = os.pread(target.fileno(), size, 0).partition(b"\n")
        if end == b"+" and (names_left := json.loads(ignored)) is not None:
            return stream, names_left
        if end == b"+":
            raise InvalidRequest("body", AT_OTHER_PLACES)
        if end == b"!" or self._has_ended():
            raise Overloaded("no process can read Parquet")
        why = f"is not Parquet that can be read with {max_bytes >> 20} MB in {SECONDS:g} seconds"
        raise InvalidRequest("body", why)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _hand_over(self, descriptors: list[int]) -> None:
        with self._lock:
            for _ in range(2):
                files = self._files or self._start()
                try:
                    socket.send_fds(files, [b"+"], descriptors)
                except OSError:
                    # It was killed, say where memory ran out; the next one takes the file.
                    self._end()
                else:
                    return
        raise Overloaded("no process can read Parquet")

    def _has_ended(self) -> bool:
        process = self._process
        try:
            return process is None or process.wait(_END_SECONDS) is not None
        except subprocess.TimeoutExpired:
            return False

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        # A process that does not take what it is sent is given up.
        ours.settimeout(_START_SECONDS)
        with theirs:
            # None of this process's variables: among them may be secrets.
            self._process = subprocess.Popen(
                [sys.executable, "-I", _PROGRAM], stdin=theirs.fileno(), stderr=subprocess.DEVNULL, env={}
            )
        self._files = ours
        return ours

    def _end(self) -> None:
        if self._files is not None and self._process is not None:
            self._files.close()
            self._process.kill()
            self._process.wait()
        self._files, self._process = None, None
