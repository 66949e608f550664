"""Programs that are run to their end."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.child_process import ProgramResult, run_program
from prinz_enricher.provision.provision_errors import Cancelled
from tests.support.deadline import wait_until
from tests.support.processes import mentioning

TIED = [pytest.param(True, id="tied"), pytest.param(False, id="free")]
STARTING = """
import subprocess, sys, pathlib, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
pathlib.Path("there").touch()
time.sleep(600)
"""


def run(folder: Path, program: str, *arguments: str, **options: Any) -> ProgramResult:
    """Run a Python program."""
    given: dict[str, Any] = {"what": "test", "timeout": 60.0, "cancelled": lambda: False, **options}
    return run_program([sys.executable, "-c", program, *arguments], {"A": "b"}, folder, **given)


@pytest.mark.parametrize("tied", TIED)
def test_a_program_runs_to_its_end(tmp_path: Path, *, tied: bool) -> None:
    """It has exactly the environment that it is given; what it writes and says is kept, and its exit code."""
    program = """
import os, sys
print(sorted(set(os.environ) - {"LC_CTYPE"}), os.getcwd())
print("secret", file=sys.stderr)
sys.exit(3)
"""
    with capture_logs() as logs:
        ended = run(tmp_path, program, tied=tied, mask=lambda text: text.replace("secret", "***"))
    assert ended.output.decode() == f"['A'] {tmp_path}\n"
    assert ended.code == 3
    assert ended.errors == ["***"]
    assert logs == [{"event": "program output", "program": "test", "line": "***", "log_level": "info"}]


def test_a_program_reads_its_input(tmp_path: Path) -> None:
    """One that does not read it is no error."""
    assert run(tmp_path, "print(input())", input=b"hello\n").output == b"hello\n"
    assert run(tmp_path, "pass", input=b"x" * 1_000_000).code == 0


def test_much_output_is_bounded(tmp_path: Path) -> None:
    """Neither many lines nor a long one fill the log or the memory, nor hold the program up."""
    program = """
import sys
for _ in range(30_000):
    print("x" * 100, file=sys.stderr)
print("y" * 20_000, file=sys.stderr)
print("z" * 3_000_000)
"""
    with capture_logs() as logs:
        ended = run(tmp_path, program)
    assert ended.code == 0
    assert len(ended.output) == 1 << 20
    assert sum(map(len, ended.errors)) <= 1 << 20
    assert len(logs) == 201
    assert logs[-1]["lines"] > 29_000
    assert all(len(line.get("line", "")) <= 8192 for line in logs)


@pytest.mark.parametrize("tied", TIED)
def test_a_cancelled_program_ends_with_all_it_started(tmp_path: Path, *, tied: bool) -> None:
    """Soon, whatever it does."""
    cancel = threading.Event()
    mark = f"mark-{tmp_path}"
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(run, tmp_path, STARTING, mark, tied=tied, cancelled=cancel.is_set)
        wait_until(lambda: len(mentioning(mark)) >= 2)
        cancel.set()
        with pytest.raises(Cancelled):
            ran.result(30)
    wait_until(lambda: not mentioning(mark))


@pytest.mark.parametrize("tied", TIED)
def test_a_program_that_takes_too_long_ends(tmp_path: Path, *, tied: bool) -> None:
    """It is told after how many seconds."""
    with pytest.raises(TimeoutError, match=r"test took longer than 0\.2 s"):
        run(tmp_path, STARTING, f"late-{tmp_path}", tied=tied, timeout=0.2)
    wait_until(lambda: not mentioning(f"late-{tmp_path}"))


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """Its group is ended, and does not hold the output open."""
    program = STARTING.replace("time.sleep(600)\n", "")
    assert run(tmp_path, program, f"left-{tmp_path}").code == 0
    wait_until(lambda: not mentioning(f"left-{tmp_path}"))


def test_a_tied_program_ends_with_us(tmp_path: Path) -> None:
    """However this process ends."""
    mark = f"tied-{tmp_path}"
    front = f"""
import sys
from pathlib import Path
from prinz_enricher.provision.child_process import run_program
run_program([sys.executable, "-c", {STARTING!r}, {mark!r}], {{}}, Path({str(tmp_path)!r}), what="test", tied=True,
            timeout=600, cancelled=lambda: False)
"""
    with subprocess.Popen([sys.executable, "-c", front], cwd=Path(__file__).parents[2]) as process:
        wait_until((tmp_path / "there").exists)
        process.kill()
    wait_until(lambda: not mentioning(mark))


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """It is told by the system's own error; nothing is started for who has cancelled."""
    with pytest.raises(FileNotFoundError):
        run_program(["/no/such/program"], {}, tmp_path, what="test", timeout=1, cancelled=lambda: False)
    with pytest.raises(Cancelled):
        run_program(["/no/such/program"], {}, tmp_path, what="test", timeout=1, cancelled=lambda: True)
