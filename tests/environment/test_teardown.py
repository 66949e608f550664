"""The environment goes and comes back; these tests are the last, since they stop it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.environment.conftest import Before, scores
from tests.environment.whole_environment import WholeEnvironment, listens
from tests.support.deadline import wait_until
from tests.support.processes import children

pytestmark = pytest.mark.timeout(900)


def family(number: int) -> set[int]:
    """Return a process and all that it started, directly or not."""
    return {number}.union(*(family(child) for child in children(number)))


def left_of(processes: set[int]) -> set[int]:
    """Return those that still run."""
    left = set()
    for number in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
            # One that has ended, and that init does not take note of, is not running.
            left |= {number} if state != "Z" else set()
    return left


def test_again_changes_nothing(environment: WholeEnvironment) -> None:
    """`up` while all runs restarts nothing."""
    before = environment.supervise("status")
    environment.up()
    names = [line.split()[0] for line in before.splitlines()]
    after = environment.supervise("status")
    pids = [[line.split("pid ")[1].split(",")[0] for line in lines.splitlines()] for lines in (before, after)]
    assert len(names) == 8
    assert pids[0] == pids[1]


def test_logs(environment: WholeEnvironment) -> None:
    """`logs` shows all of them, or those that are named; one that is not there is a fault."""
    assert "GET /" in environment.run("logs", "mlflow").stdout
    assert "wine-1.log" in environment.run("logs").stdout
    assert environment.run("logs", "nothing").returncode == 1


def test_down_leaves_nothing(upgraded: tuple[WholeEnvironment, Before]) -> None:
    """`down` ends every process and frees every port, also after the supervisor was killed; data stay until told to go.

    A port that somebody took meanwhile is named.
    """
    environment, before = upgraded
    database = Path(re.findall(r'"-D" "([^"]+)"', (environment.home / "supervisord.conf").read_text())[0])
    processes = family(environment.supervisor())
    assert len(processes) > 15
    os.kill(environment.supervisor(), signal.SIGKILL)
    done = environment.run("down")
    assert done.returncode == 0, done.stdout
    assert not [port for port in environment.ports.values() if listens(port)]
    # Workers end by themselves, once their service has.
    wait_until(lambda: not left_of(processes))
    assert environment.run("status").returncode == 1

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", environment.ports["PROXY_PORT"]))
        other.listen()
        refused = environment.run("up")
    assert refused.returncode == 1
    assert f"PROXY_PORT={environment.ports['PROXY_PORT']}" in refused.stdout

    environment.up()
    assert scores(environment.address) == before.scores
    processes = family(environment.supervisor())
    assert database.exists()
    done = environment.run("down", "--volumes")
    assert done.returncode == 0, done.stdout
    assert not [port for port in environment.ports.values() if listens(port)]
    wait_until(lambda: not left_of(processes))
    assert not database.exists()
    assert not (environment.home / "bucket").exists()
