"""What makes the load: our C++ generator for gRPC, wrk for HTTP, and Python where they are not there.

The C++ programs are compiled when they are first needed, and kept with the peers' environments.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import cache_folder
from benchmarks.peers.figure import Figure, median, parse_run
from benchmarks.peers.processes import pinned

LOAD = Path(__file__).parent / "load"
WRK_SCRIPT = LOAD / "wrk.lua"
CALL_SECONDS = 60

_COMPILE_SECONDS = 600


class NotCompiled(Exception):
    """The C++ programs can't be made here; the message says why."""


class LoadFailed(Exception):
    """A generator gave no figures; the message says why."""


def compiled(name: str) -> Path:
    """Return a program of load/, compiled now where it is not yet.

    Raises:
        NotCompiled: There is no compiler, or no grpc++.
    """
    sources = [*sorted(LOAD.glob("*.h")), LOAD / f"{name}.cc"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    program = cache_folder() / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("g++") or shutil.which("clang++")
    config = shutil.which("pkg-config")
    if compiler is None or config is None:
        raise NotCompiled("no C++ compiler, or no pkg-config; on Debian: apt-get install g++ pkg-config libgrpc++-dev")
    flags = subprocess.run([config, "--cflags", "--libs", "grpc++"], check=False, capture_output=True, text=True)
    if flags.returncode:
        raise NotCompiled("no grpc++; on Debian: apt-get install libgrpc++-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(".new")
    command = [compiler, "-std=c++17", "-O2", str(sources[-1]), "-o", str(made), *flags.stdout.split(), "-lpthread"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
    if done.returncode:
        raise NotCompiled(f"{compiler} fails: {' '.join(done.stderr.split())[:300]}")
    made.rename(program)
    return program


@dataclass(frozen=True)
class Expectation:
    """What an answer must have in it: a double anywhere in its bytes, or a text."""

    number: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Generator:
    """Makes loads from the cores it is given.

    Attributes:
        cores: Where it runs.
        seconds: How long each run is measured.
        warm: Seconds before that.
        runs: How many, of which the median counts.
        folder: For requests, as files.
    """

    cores: set[int]
    seconds: float
    warm: float
    runs: int
    folder: Path

    def grpc(
        self,
        address: str,
        method: str,
        request: bytes,
        rows: int,
        *,
        callers: int = 1,
        expected: Expectation | None = None,
        more: Sequence[str] = (),
    ) -> Figure:
        """Make a load of gRPC calls, or messages.

        Args:
            address: The server.
            method: Such as `/package.Service/Method`.
            request: The bytes of each request.
            rows: Rows in it.
            callers: Calls in flight.
            expected: What answers must have.
            more: More flags of the C++ generator, without which Python can't stand in for it.

        Raises:
            LoadFailed: It gave no figures.
        """
        flags = ["--address", address, "--method", method, "--callers", str(callers)]
        if expected and expected.number is not None:
            flags += ["--expect-double", repr(expected.number)]
        try:
            command, name = [str(compiled("generate"))], "C++"
        except NotCompiled as error:
            if more:
                raise LoadFailed(f"it needs the C++ generator: {error}") from error
            command, name = _python("grpc"), "Python, which was the limit"
        return self._measure([*command, *flags, *more, "--payload", str(self._file(request))], name, rows)

    def http(
        self,
        address: str,
        path: str,
        request: bytes,
        rows: int,
        *,
        callers: int = 1,
        expected: Expectation | None = None,
    ) -> Figure:
        """Make a load of HTTP requests; arguments as those of `grpc`."""
        wrk = shutil.which("wrk")
        text = expected.text if expected else ""
        # wrk counts by time alone: of requests that take a second each it would see two or three, and a half.
        if wrk is None or rows > 1:
            name = "Python" if rows > 1 else "Python, which was the limit"
            flags = ["--address", address, "--method", path, "--callers", str(callers), "--expect-text", text]
            return self._measure([*_python("http"), *flags, "--payload", str(self._file(request))], name, rows)
        command = [wrk, "--threads", "1", "--connections", str(callers), "--timeout", f"{CALL_SECONDS}s"]
        runs = []
        for _ in range(self.runs):
            for seconds in (self.warm, self.seconds):
                # wrk takes whole seconds.
                arguments = ["--duration", f"{max(round(seconds), 1)}s", "--script", str(WRK_SCRIPT)]
                told = self._run(
                    [*command, *arguments, f"http://{address}{path}", "--", str(self._file(request)), text]
                )
            runs.append(parse_run(told, "wrk", rows))
        return median(runs)

    def coalesced(
        self,
        address: str,
        model: str,
        row: Mapping[str, object],
        callers: int,
        number: float,
        more: Sequence[str] = (),
    ) -> Figure:
        """Make a load of single-row calls of our own client in one process, which puts them together."""
        flags = ["--address", address, "--method", model, "--callers", str(callers), "--expect-double", repr(number)]
        payload = self._file(json.dumps(row).encode())
        return self._measure(
            [*_python("coalesced"), *flags, *more, "--payload", str(payload)], "our client, measured too", 1
        )

    def _measure(self, command: Sequence[str], name: str, rows: int) -> Figure:
        times = ["--seconds", str(self.seconds), "--warm", str(self.warm)]
        return median([parse_run(self._run([*command, *times]), name, rows) for _ in range(self.runs)])

    def _run(self, command: Sequence[str]) -> dict[str, object]:
        limit = self.warm + self.seconds + 3 * CALL_SECONDS
        with pinned(self.cores):
            try:
                done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired as error:
                raise LoadFailed(f"the generator did not end within {limit:.0f} s") from error
        if done.returncode:
            raise LoadFailed(" ".join(done.stderr.split())[-400:])
        return last_json(done.stdout)

    def _file(self, content: bytes) -> Path:
        path = self.folder / hashlib.sha256(content).hexdigest()[:16]
        if not path.exists():
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(content)
            Path(file.name).rename(path)
        return path


def last_json(printed: str) -> dict[str, object]:
    """Return the JSON object in the last line that is one: wrk prints a table of its own before it.

    Raises:
        LoadFailed: There is none.
    """
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            told: dict[str, object] = json.loads(line)
            return told
    raise LoadFailed(f"no figures: {printed[-300:]}")


def _python(kind: str) -> list[str]:
    return [sys.executable, str(Path(__file__).parent / "callers.py"), kind]
