"""Downloading a version from a real registry."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from prinz_enricher.provision.fetch import (
    InvalidModel,
    checked_path,
    describe_error,
    fetch_model,
    prepare_environment,
)
from prinz_enricher.provision.variables import fetch_variables
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.processes import children, is_there
from tests.support.registry_writer import RegistryWriter, mlmodel_text

ANY = "mlflow-artifacts:/models/one"

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave MLflow's global state as it was; a registry that is not there is to show at once."""
    import mlflow

    before = dict(os.environ)
    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield
    mlflow.set_tracking_uri("")
    mlflow.set_registry_uri("")
    # MLflow tells its URIs to processes that come later, by the environment.
    os.environ.clear()
    os.environ.update(before)


def test_a_registry_that_is_not_there_is_told(unused_tcp_port: int, tmp_path: Path) -> None:
    """It ends with an error that says that it may pass, shows no address, and does not hang."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as failed:
        fetch_model(f"http://127.0.0.1:{unused_tcp_port}", ANY, str(tmp_path / "model"))
    assert describe_error(failed.value) == ("the registry gives no answer", True)


def test_credentials_that_are_not_accepted_may_be_later(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A token that ended is no fault of the model; nothing of the registry's words is told."""
    hostile_server.respond = lambda _: Answer(b"you are nobody", 401)
    with pytest.raises(requests.HTTPError) as refused:
        fetch_model(hostile_server.url, ANY, str(tmp_path / "model"))
    sentence, may_pass = describe_error(refused.value)
    assert "does not accept our credentials" in sentence
    assert may_pass
    assert "nobody" not in sentence


def test_the_operator_s_settings_win_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries can be set; telemetry can't be turned on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    prepare_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


LARGE = 1 << 30
GONE = "the registry, or the store of its files, gives no answer"


def start(**more: Any) -> subprocess.Popen[str]:
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "prinz_enricher.provision.fetch", "download"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def download(registry: str, uri: str, folder: Path, *, max_bytes: int = LARGE) -> dict[str, Any]:
    """Run the program as the front does, and return its answer."""
    folder.mkdir()
    asked = {"registry": registry, "uri": uri, "folder": str(folder), "max_bytes": max_bytes}
    variables = {**fetch_variables(os.environ, folder.parent, None), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with start(env=variables) as process:
        output, errors = process.communicate(json.dumps(asked) + "\n", timeout=90)
    (line,) = output.splitlines()
    answer = json.loads(line)
    assert isinstance(answer, dict)
    assert (process.returncode == 0) == ("path" in answer), errors
    return answer


def test_the_program_answers_with_the_model_s_place(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """One line, whatever libraries print."""
    scratch_registry.create_model("download program")
    version = scratch_registry.create_version("download program", folder="some/place")
    answer = download(scratch_registry.url, scratch_registry.source("download program", version), tmp_path / "model")
    assert answer.keys() == {"path"}
    assert (tmp_path / "model" / answer["path"] / "MLmodel").read_text() == mlmodel_text()


def test_a_model_that_is_too_large_is_refused(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """By one file that is too large, or by many together."""
    scratch_registry.create_model("download large")
    version = scratch_registry.create_version("download large")
    place = scratch_registry.mlmodel_path(scratch_registry.source("download large", version)).parent
    for number in range(20):
        (place / f"part-{number}").write_bytes(bytes(1000))
    uri = scratch_registry.source("download large", version)
    refused = {"error": "the model is larger than the 10000 bytes of cache.max_model_bytes", "may_pass": False}
    assert download(scratch_registry.url, uri, tmp_path / "many", max_bytes=10_000) == refused
    (place / "one").write_bytes(bytes(20_000))
    assert download(scratch_registry.url, uri, tmp_path / "one", max_bytes=10_000) == refused


class LyingRegistry:
    """A registry whose one model is in a store that a test makes up."""

    def __init__(self, files: list[dict[str, Any]], content: bytes = b"flavors: {}") -> None:
        self._files = files
        self._content = content
        self.go = threading.Event()
        self.go.set()
        self.sent = threading.Event()

    def __call__(self, request: Request) -> Answer:
        """Answer MLflow's client."""
        if request.path.endswith("artifacts"):
            return answer_json({"files": self._files if "models/one" in str(request.query) else []})
        if request.path.startswith("/api/2.0/mlflow-artifacts/"):
            self.sent.set()
            self.go.wait(60)
            return Answer(self._content)
        return answer_json({})


@pytest.mark.parametrize(
    ("path", "folder"),
    [("../outside", False), ("/tmp/outside", False), ("%2e%2e/outside", False), ("a/../../outside", True)],  # noqa: S108 - it is not to be written
)
def test_a_registry_that_lies_about_paths(
    hostile_server: HostileServer, tmp_path: Path, path: str, *, folder: bool
) -> None:
    """Nothing is written outside of the folder, and the model is refused."""
    hostile_server.respond = LyingRegistry(
        [{"path": "MLmodel", "is_dir": False, "file_size": 1}, {"path": path, "is_dir": folder, "file_size": 1}]
    )
    before = sorted(tmp_path.parent.iterdir())
    answer = download(hostile_server.url, ANY, tmp_path / "model")
    assert answer == {"error": "MlflowException: Invalid path", "may_pass": False}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "model"]
    assert sorted(tmp_path.parent.iterdir()) == before
    assert not Path("/tmp/outside").exists()  # noqa: S108 - as above


def test_a_registry_that_sends_without_end(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A list of files may say that they are small; what comes is counted."""
    files = [{"path": name, "is_dir": False, "file_size": 1} for name in ("MLmodel", *map(str, range(50)))]
    hostile_server.respond = LyingRegistry(files, bytes(100_000))
    answer = download(hostile_server.url, ANY, tmp_path / "model", max_bytes=1_000_000)
    assert answer == {"error": "the model is larger than the 1000000 bytes of cache.max_model_bytes", "may_pass": False}


def test_a_registry_without_an_mlmodel_file(hostile_server: HostileServer, tmp_path: Path) -> None:
    """What is no model is not handed on."""
    hostile_server.respond = LyingRegistry([{"path": "passwords", "is_dir": False, "file_size": 1}])
    answer = download(hostile_server.url, ANY, tmp_path / "model")
    assert answer == {"error": "there is no MLmodel file in what was downloaded", "may_pass": False}


def test_a_store_that_breaks_off_may_be_back(hostile_server: HostileServer, tmp_path: Path) -> None:
    """MLflow tells of a file that could not be had by text alone; no address is told on."""
    lying = LyingRegistry([{"path": "MLmodel", "is_dir": False, "file_size": 1}])
    hostile_server.respond = lambda request: (
        Answer(b"busy", 503) if request.path.endswith("/MLmodel") else lying(request)
    )
    answer = download(hostile_server.url, ANY, tmp_path / "model")
    assert answer == {"error": GONE, "may_pass": True}


def test_the_program_ends_with_the_one_that_started_it(hostile_server: HostileServer, tmp_path: Path) -> None:
    """In the middle of a download, too."""
    lying = LyingRegistry([{"path": "MLmodel", "is_dir": False, "file_size": 1}])
    lying.go.clear()
    hostile_server.respond = lying
    asked = {"registry": hostile_server.url, "uri": ANY, "folder": str(tmp_path), "max_bytes": LARGE}
    front = (
        "import subprocess, sys;"
        " p = subprocess.Popen([sys.executable, '-P', '-m', 'prinz_enricher.provision.fetch', 'download'],"
        " stdin=subprocess.PIPE); p.stdin.write(sys.stdin.buffer.readline()); p.stdin.flush(); p.wait()"
    )
    try:
        with subprocess.Popen([sys.executable, "-c", front], stdin=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            assert lying.sent.wait(60)
            (child,) = children(process.pid)
            process.kill()
        wait_until(lambda: not is_there(child))
    finally:
        lying.go.set()


@pytest.mark.parametrize("line", ["", "\n", "nonsense\n", "[]\n", "{}\n", '{"folder": "/", "max_bytes": "x"}\n'])
def test_the_program_without_a_question(line: str) -> None:
    """It ends with an error."""
    with start() as process:
        output, _ = process.communicate(line, timeout=60)
    assert json.loads(output)["may_pass"] is False
    assert process.returncode == 1


def test_what_was_downloaded_is_checked(tmp_path: Path) -> None:
    """Links, pipes and places outside are refused, whoever made them."""
    folder = tmp_path.resolve() / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "MLmodel").write_text("flavors: {}")
    assert checked_path(folder, folder / "inner", LARGE) == "inner"
    with pytest.raises(InvalidModel, match="not downloaded into the folder") as refused:
        checked_path(folder, tmp_path, LARGE)
    assert describe_error(refused.value) == (str(refused.value), False)
    with pytest.raises(InvalidModel, match="no MLmodel"):
        checked_path(folder, folder, LARGE)
    with pytest.raises(InvalidModel, match="larger than the 3 bytes"):
        checked_path(folder, folder / "inner", 3)
    (folder / "link").symlink_to("/etc")
    with pytest.raises(InvalidModel, match="no links"):
        checked_path(folder, folder / "inner", LARGE)
    (folder / "link").unlink()
    os.mkfifo(folder / "inner" / "pipe")
    with pytest.raises(InvalidModel, match="files and folders only"):
        checked_path(folder, folder / "inner", LARGE)


@pytest.mark.parametrize(
    ("error", "sentence", "passing"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", True),
        (
            ModuleNotFoundError("No module named 'boto3'", name="boto3"),
            "the store of its files needs the Python package boto3, which is not installed",
            False,
        ),
        (ValueError("one line\nand another"), "ValueError: one line", False),
        (ValueError("Max retries exceeded with url: /a?X-Signature=c"), GONE, True),
        (ValueError(""), "ValueError: ", False),
    ],
)
def test_what_is_told_of_an_error(error: Exception, sentence: str, *, passing: bool) -> None:
    """One sentence."""
    assert describe_error(error) == (sentence, passing)
