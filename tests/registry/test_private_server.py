"""The private MLflow server and what ends it."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from prinz_enricher.registry import PrivateServer, PrivateServerError, is_local_store, orphan_watchdog, store_folder
from prinz_enricher.registry.private_server import _environment
from tests.support.deadline import wait_until

SERVE = """
import sys, time
from prinz_enricher.registry import PrivateServer
with PrivateServer(sys.argv[1], start_timeout=100) as server:
    print(server.url, [name for name in ("mlflow", "pandas", "sklearn") if name in sys.modules], flush=True)
    sys.stdin.read()
"""


def answers(url: str) -> bool:
    """Tell whether a server answers."""
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def is_alive(pid: int) -> bool:
    """Tell whether a process lives; one that has ended but is not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_server_dies_with_its_owner(tmp_path: Path) -> None:
    """A store is served without MLflow in our process, and its server ends even where we are killed."""
    owner = subprocess.Popen(
        [sys.executable, "-c", SERVE, f"sqlite:///{tmp_path}/mlflow.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        try:
            assert owner.stdout is not None
            url, imported = owner.stdout.readline().split(maxsplit=1)
            assert imported.strip() == "[]"
            assert answers(url)
            assert (tmp_path / "mlartifacts").is_dir()
        finally:
            owner.kill()
    wait_until(lambda: not answers(url))


@pytest.fixture
def fake_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a shell script in the place of `python -m mlflow`."""

    def install(script: str) -> None:
        interpreter = tmp_path / "python"
        interpreter.write_text(f'#!/bin/sh\n[ "$1" = -S ] && exec {sys.executable} "$@"\n{script}\n')
        interpreter.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(interpreter))

    return install


def test_failed_start_tells_the_log(tmp_path: Path, fake_mlflow: Callable[[str], None]) -> None:
    """A server that ends at its start is an error with the end of its log."""
    fake_mlflow("echo no such table; exit 3")
    with pytest.raises(PrivateServerError, match=r"(?s)ended at its start.*no such table"):
        PrivateServer(f"sqlite:///{tmp_path}/mlflow.db").start()


def test_other_port_where_one_is_taken(tmp_path: Path, fake_mlflow: Callable[[str], None]) -> None:
    """A start that fails because its port was taken is tried again, three times at most."""
    fake_mlflow(f'echo try >> {tmp_path}/tries; echo "[Errno 98] address already in use"; exit 1')
    with pytest.raises(PrivateServerError, match="address already in use"):
        PrivateServer(f"sqlite:///{tmp_path}/mlflow.db").start()
    assert (tmp_path / "tries").read_text() == "try\n" * 3


def test_server_that_does_not_answer(tmp_path: Path, fake_mlflow: Callable[[str], None]) -> None:
    """A server that does not answer in time is ended."""
    fake_mlflow(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(PrivateServerError, match=r"did not answer within 0\.5 s"):
        PrivateServer(f"sqlite:///{tmp_path}/mlflow.db", start_timeout=0.5).start()
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_watchdog_ends_the_whole_group(tmp_path: Path) -> None:
    """Where the holder of the pipe is gone, processes that the command started end too, even deaf ones."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 60 & echo $! $$ > {pids}; wait; sleep 60"
    process = subprocess.Popen(
        [sys.executable, orphan_watchdog.__file__, "0.2", "/bin/sh", "-c", script], stdin=subprocess.PIPE
    )
    with process:
        try:
            wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
            started = [int(pid) for pid in pids.read_text().split()]
            process.send_signal(signal.SIGTERM)
            assert all(is_alive(pid) for pid in started)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=10)
        finally:
            process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_watchdog_returns_the_exit_code() -> None:
    """A command that ends by itself ends its watchdog with the same code."""
    for command, code in (("exit 7", 7), ("kill -9 $$", 137)):
        arguments = [sys.executable, orphan_watchdog.__file__, "5", "/bin/sh", "-c", command]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE) as process:
            assert process.wait(timeout=20) == code


@pytest.mark.parametrize(
    ("uri", "folder"),
    [("sqlite:///mlflow.db", "."), ("sqlite:///sub/m.db?timeout=3", "sub"), ("sqlite+pysqlite:///m%20.db", ".")],
)
def test_relative_stores(uri: str, folder: str) -> None:
    """A path after three slashes is relative to the current folder, as SQLAlchemy has it."""
    assert store_folder(uri) == Path.cwd() / folder


def test_absolute_stores(tmp_path: Path) -> None:
    """A path after four slashes is absolute; an existing folder is a store too."""
    assert store_folder("sqlite:////srv/mlflow.db") == Path("/srv")
    assert store_folder(str(tmp_path)) == tmp_path.parent
    assert store_folder(tmp_path.as_uri()) == tmp_path.parent


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://mlflow.db", "postgresql://db/mlflow", "nowhere"]
)
def test_no_store(uri: str) -> None:
    """What is no local store is refused before anything is started."""
    with pytest.raises(PrivateServerError):
        PrivateServer(uri)


def test_missing_folder(tmp_path: Path) -> None:
    """A store in a folder that is not there is an error, and no new folder."""
    with pytest.raises(PrivateServerError, match="no folder"):
        PrivateServer(f"sqlite:///{tmp_path}/typo/mlflow.db").start()
    assert not (tmp_path / "typo").exists()


def test_local_stores_are_told_apart() -> None:
    """URLs of servers are no local stores."""
    assert not is_local_store("https://mlflow.example.com")
    assert is_local_store("sqlite:///mlflow.db")
    assert is_local_store("./mlruns")


def test_environment_of_the_server() -> None:
    """Variables that would change the server's options are left out, and others stay."""
    environment = _environment({"MLFLOW_STATIC_PREFIX": "/x", "MLFLOW_S3_ENDPOINT_URL": "http://s3", "PATH": "/bin"})
    assert "MLFLOW_STATIC_PREFIX" not in environment
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://s3"
    assert environment["PATH"] == "/bin"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
