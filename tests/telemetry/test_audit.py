"""The audit log: what its lines are, how its file rotates, and what happens while it can't be written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prinz_enricher.config import AuditSettings
from prinz_enricher.telemetry import audit
from prinz_enricher.telemetry.audit import MAX_REFUSALS, AuditError, AuditLog
from tests.support.deadline import wait_until

MIB = 1 << 20


def settings(output: Path | str, **others: Any) -> AuditSettings:
    """Return settings of an audit log."""
    return AuditSettings(output=str(output), **others)


def add(log: AuditLog, principal: str = "nk", *, refused: bool = False, **line: object) -> bool:
    """Add a line as a call does; returns False where it was refused a place."""
    if not log.reserve():
        return False
    log.add(principal, line, refused=refused, reserved=True)
    return True


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit
        threading.Event().wait(0.005)


def test_lines(tmp_path: Path) -> None:
    """A line is JSON, with the time in UTC and the names escaped; the file is not for others to read."""
    path = tmp_path / "audit.log"
    log = AuditLog(settings(path))
    before = time.time()
    add(log, 'n\nk"\x1b[31m', model="a\r\n{}\u2028\ud800", rows=3)
    log.close()
    [text] = path.read_bytes().splitlines()
    line = json.loads(text)
    assert text.isascii()
    assert b"\x1b" not in text
    assert list(line) == ["time", "principal", "model", "rows"]
    assert (line["principal"], line["rows"]) == ('n\nk"\x1b[31m', 3)
    assert line["model"] == "a\r\n{}\u2028\ud800"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["time"] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before))
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_lines_are_appended(tmp_path: Path) -> None:
    """A file goes on where it ended, on a line of its own, and what others append stays."""
    path = tmp_path / "audit.log"
    path.write_text('{"former": 1}\n{"torn": ')
    log = AuditLog(settings(path))
    add(log, rows=1)
    eventually(lambda: path.read_text().count("\n") == 3)
    with path.open("a") as other:
        other.write('{"other": 1}\n')
    add(log, rows=2)
    log.close()
    texts = path.read_text().splitlines()
    assert texts[:2] == ['{"former": 1}', '{"torn": ']
    assert [json.loads(text).get("rows") for text in texts[2:]] == [1, None, 2]


@pytest.mark.parametrize("backups", [0, 1, 3])
def test_rotation(tmp_path: Path, backups: int) -> None:
    """No file is over its limit, no line is cut in two, and no more former files are kept than the settings say."""
    path = tmp_path / "audit.log"
    log = AuditLog(settings(path, max_bytes=MIB, backups=backups))
    total = 9_000
    for number in range(total):
        add(log, number=number, model="\x00" * 90)
    log.close()
    files = [path, *(tmp_path / f"audit.log.{number}" for number in range(1, 9))]
    kept = [file for file in files if file.exists()]
    assert len(kept) == backups + 1
    assert all(file.stat().st_size <= MIB for file in kept)
    numbers = [line["number"] for file in reversed(kept) for line in lines_of(file)]
    assert numbers == list(range(total - len(numbers), total))


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    """The start says which and why."""
    with pytest.raises(AuditError, match=r"audit\.output: .*no/audit\.log can't be opened \(No such file"):
        AuditLog(settings(tmp_path / "no" / "audit.log"))


def test_a_full_disk_does_not_hold_up_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be written waits, up to a limit; what is over it is lost, counted, and logged once."""
    monkeypatch.setattr(audit, "MAX_LINES", 1_000)
    with capture_logs() as logs:
        log = AuditLog(settings("/dev/full"))
        began = time.monotonic()
        assert all(add(log, rows=number) for number in range(3_000))
        assert time.monotonic() - began < 2
        log.close()
    # Some were with the thread that writes.
    assert 3_000 - 1_000 - 256 <= log.lost <= 2_000
    events = [(entry["event"], entry["log_level"]) for entry in logs]
    assert events.count(("audit log can't be written", "error")) == 1
    assert events.count(("audit lines are lost", "error")) == 2
    assert logs[-1]["lost"] + logs[-1]["unwritten"] == 3_000


def test_required_lines(tmp_path: Path) -> None:
    """With `required` no place is given while the file can't be written; each place that was given gets its line.

    A limit on the size of files stands for a full disk; afterwards lines are whole, and calls go on by themselves.
    """
    path = tmp_path / "audit.log"
    program = f"""
        import json, resource, sys, time
        from prinz_enricher.config import AuditSettings
        from prinz_enricher.telemetry.audit import AuditLog

        log = AuditLog(AuditSettings(output={str(path)!r}, required=True))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
        places = 0
        end = time.monotonic() + 20
        assert all(log.reserve() for _ in range(100))
        log.add("nk", {{"model": "x" * 200}}, refused=False, reserved=True)
        while log.reserve():
            log.add("nk", {{"model": "x" * 200}}, refused=False, reserved=True)
            places += 1
            assert time.monotonic() < end
        # Those that were in flight end as ever.
        for _ in range(99):
            log.add("nk", {{"model": "x" * 200}}, refused=False, reserved=True)
        assert not log.reserve()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while not log.reserve():
            assert time.monotonic() < end
            time.sleep(0.01)
        log.add("nk", {{"model": "last"}}, refused=False, reserved=True)
        log.close()
        assert log.lost == 0
        print(places + 101)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = lines_of(path)
    assert len(lines) == int(done.stdout.splitlines()[-1])
    assert lines[-1]["model"] == "last"


def test_standard_output() -> None:
    """Lines may go to standard output, apart from the log; one that nobody reads holds up no call."""
    program = """
        import time
        from prinz_enricher.config import AuditSettings
        from prinz_enricher.telemetry.audit import AuditLog

        log = AuditLog(AuditSettings(output="stdout"))
        for number in range(40_000):
            assert log.reserve()
            log.add("nk", {"number": number}, refused=False, reserved=True)
        print("all were added", file=__import__("sys").stderr, flush=True)
        log.close()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stdout is not None
        # Nothing was read of what the pipe can't hold.
        assert child.stderr.readline() == "all were added\n"
        numbers = [json.loads(line)["number"] for line in child.stdout]
    assert numbers == list(range(40_000))


def test_refusals_do_not_fill_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some refusals of a caller in a second have lines, and one says how many others there were; answers all have."""
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    path = tmp_path / "audit.log"
    log = AuditLog(settings(path))
    for number in range(1_000):
        add(log, "hostile", refused=True, number=number)
        add(log, "nk", refused=number == 0, number=number)
    now += 1
    add(log, "hostile", refused=True, number=1_000)
    for number in range(100):
        add(log, "other", refused=True, number=number)
    log.close()
    lines = lines_of(path)
    of = {name: [line for line in lines if line["principal"] == name] for name in ("hostile", "nk", "other")}
    assert len(of["nk"]) == 1_000
    assert [line.get("number") for line in of["hostile"]] == [*range(MAX_REFUSALS), None, 1_000]
    assert of["hostile"][MAX_REFUSALS]["omitted"] == 1_000 - MAX_REFUSALS
    assert of["other"][-1]["omitted"] == 100 - MAX_REFUSALS


def test_refusals_are_summed_up_when_the_log_ends(tmp_path: Path) -> None:
    """A log that is closed while its thread writes still says how many refusals have no line."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AuditLog(settings(path))
    for _ in range(MAX_REFUSALS + 5):
        add(log, "hostile", refused=True)
    for _ in range(2_000):
        # More than the pipe takes: the thread waits for its reader.
        add(log, "nk")
    closing = threading.Thread(target=log.close)
    closing.start()
    wait_until(log._closing.is_set)
    written = b""
    while closing.is_alive():
        with contextlib.suppress(BlockingIOError):
            written += os.read(reader, 65536)
    with contextlib.suppress(BlockingIOError):
        written += os.read(reader, 65536)
    os.close(reader)
    lines = [json.loads(line) for line in written.splitlines()]
    assert sum(line.get("omitted", 1) for line in lines if line["principal"] == "hostile") == MAX_REFUSALS + 5
    assert sum(line["principal"] == "nk" for line in lines) == 2_000
