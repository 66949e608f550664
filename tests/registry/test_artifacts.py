"""A version's files, got from the server itself, which may lie about them."""

from __future__ import annotations

import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from prinz_enricher.provision.model_cache import ModelCache, ModelSource
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import (
    ArtifactsRefused,
    MlmodelUnreadable,
    RegistryClient,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
    RegistryUnreadable,
    artifacts,
)
from prinz_enricher.registry.artifacts import is_plain
from prinz_enricher.registry.mlmodel import ARTIFACTS
from prinz_enricher.registry.transport import Credentials
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.registry_writer import RegistryWriter

URI = "mlflow-artifacts:/1/m"
SMALL = 1 << 20


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(artifacts, "_PAUSES", (0.0, 0.001, 0.001))


def file(name: object, size: object = None, **more: object) -> dict[str, object]:
    """Return an entry of a listing."""
    return {"path": name, "is_dir": False, **({} if size is None else {"file_size": size}), **more}


def inner(name: str) -> dict[str, object]:
    """Return a folder's entry of a listing."""
    return {"path": name, "is_dir": True}


MLMODEL = file("MLmodel", 3)


@dataclass
class Files:
    """Answers for a folder `1/m`, as a server that proxies artifacts does.

    Attributes:
        listings: Of each folder in it.
        instead: What is answered for a file of another content than `abc`.
    """

    listings: Mapping[str, object]
    instead: Mapping[str, Callable[[Request], Answer]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if request.path == ARTIFACTS:
            path = request.query["path"][0].removeprefix("1/m").removeprefix("/")
            return answer_json({"files": self.listings.get(path, [])})
        path = unquote(request.path).removeprefix(f"{ARTIFACTS}/1/m/")
        return self.instead[path](request) if path in self.instead else Answer(b"abc")


def download(
    server: HostileServer,
    folder: Path,
    *,
    max_bytes: int = SMALL,
    watch: Callable[[int, int], object] = lambda *_: None,
    begun: Callable[[Path], object] = lambda _: None,
) -> bool:
    """Download the folder from a server."""
    with RegistryClient(server.url.replace("//", "//user:hunter2@")) as client:
        return client.download(URI, folder, max_bytes=max_bytes, watch=watch, begun=begun)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the files of a folder, and None for each folder in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def test_a_nested_model_is_the_same_as_mlflow_s_own(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """Byte for byte, with empty files and folders, odd names, and a file that a server might say is compressed."""
    name = "artifacts nested"
    scratch_registry.create_model(name)
    version = scratch_registry.create_version(name, folder="a model of żółw")
    kept = scratch_registry.mlmodel_path(scratch_registry.source(name, version)).parent
    for path, content in {
        "data/model/weights.bin": os.urandom(3_000_000),
        "data/model/MLmodel": b"another",
        "data/empty": b"",
        "code/a/b/c/odd name (1) & ż+%.py": b"print()",
        "archive.tar.gz": b"\x1f\x8b not really",
        "requirements.txt": b"numpy\n",
        "text.json": b"{}",
    }.items():
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        (kept / path).write_bytes(content)
    (kept / "code" / "nothing").mkdir()
    cache = ModelCache(tmp_path / "cache", max_bytes=1 << 30, max_model_bytes=1 << 30, timeout=100)
    watched: list[tuple[int, int]] = []
    with RegistryClient(scratch_registry.url) as client:
        uri = client.folder_uri(name, version)
        assert client.download(
            uri,
            tmp_path / "ours",
            max_bytes=SMALL * 100,
            watch=lambda *told: watched.append(told),
            begun=lambda _: None,
        )
        with cache.get(
            ModelSource(client.url, name, version, ""),
            lambda: uri,
            lambda folder: fetch_variables(os.environ, folder, None),
        ) as theirs:
            assert contents(tmp_path / "ours") == contents(theirs.path) == contents(kept)
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    assert watched[-1] == (size, size)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "ours").rglob("*")}
    assert modes == {0}


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/m",
        "file:///m",
        "/m",
        "models:/some.model.of_unity/1",
        "mlflow-artifacts://elsewhere:80/m",
        "dbfs:/m",
    ],
)
def test_what_the_server_does_not_hand_out(hostile_server: HostileServer, tmp_path: Path, uri: str) -> None:
    """It is for MLflow's own client: nobody is asked, nothing is made."""
    with RegistryClient(hostile_server.url) as client:
        assert not client.download(uri, tmp_path / "model", max_bytes=SMALL, watch=lambda *_: None)
        with pytest.raises(MlmodelUnreadable):
            client.download("mlflow-artifacts:/1/../m", tmp_path / "model", max_bytes=SMALL, watch=lambda *_: None)
    assert (hostile_server.requests, list(tmp_path.iterdir())) == ([], [])


LIES: dict[str, tuple[Mapping[str, object], str]] = {
    "parent": ({"": [MLMODEL, inner("..")]}, r'"\.\.", an invalid or too long name'),
    "itself": ({"": [MLMODEL, file(".")]}, "an invalid or too long name"),
    "climbing": ({"": [MLMODEL, file("../../x")]}, "an invalid or too long name"),
    "absolute": ({"": [MLMODEL, file("/etc/x")]}, "an invalid or too long name"),
    "zero": ({"": [MLMODEL, file("a\0b")]}, "an invalid or too long name"),
    "empty": ({"": [MLMODEL, file("")]}, "an invalid or too long name"),
    "no text": ({"": [MLMODEL, file(7)]}, "an invalid or too long name"),
    "no entry": ({"": [MLMODEL, "x"]}, "an invalid or too long name"),
    "no Unicode": ({"": [MLMODEL, file("\udc80")]}, "an invalid or too long name"),
    "long name": ({"": [MLMODEL, file("ż" * 128)]}, "too long"),
    "long path": ({"/".join(["x" * 250] * n): [MLMODEL, inner("x" * 250)] for n in range(6)}, "too long"),
    "twice": ({"": [MLMODEL, file("a"), file("a")]}, '"a" twice'),
    "file and folder": ({"": [MLMODEL, file("a", 3), inner("a")], "a": [file("b")]}, '"a" twice'),
    "endless": ({"/".join("a" * n): [MLMODEL, inner("a")] for n in range(50)}, "more than 32 deep"),
    "large": ({"": [MLMODEL, file("a", SMALL)]}, f"larger than the {SMALL} bytes"),
    "large as text": ({"": [MLMODEL, file("a", str(SMALL))]}, f"larger than the {SMALL} bytes"),
    "large together": ({"": [MLMODEL, *(file(f"{n}", SMALL // 4) for n in range(4))]}, "larger than the"),
    "less than nothing": ({"": [MLMODEL, file("a", -1)]}, "an invalid length"),
    "no length": ({"": [MLMODEL, file("a", "9" * 5000)]}, "an invalid length"),
    "true length": ({"": [MLMODEL, file("a", True)]}, "an invalid length"),
    "no MLmodel": ({"": [file("model.pkl", 3)]}, "no MLmodel file among"),
    "nothing": ({}, "no MLmodel file among"),
    "folder MLmodel": ({"": [inner("MLmodel")], "MLmodel": [file("MLmodel", 3)]}, "no MLmodel file among"),
}


@pytest.mark.parametrize("lie", LIES)
def test_listings_that_lie(hostile_server: HostileServer, tmp_path: Path, lie: str) -> None:
    """A registry that lists what no model has is refused for good, and told so; nothing is written for it."""
    hostile_server.respond = Files(LIES[lie][0])
    with pytest.raises(ArtifactsRefused, match=LIES[lie][1]) as raised:
        download(hostile_server, tmp_path / "model")
    assert not raised.value.transient
    assert "hunter2" not in str(raised.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_too_many_files(hostile_server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number has a bound, folders among them."""
    monkeypatch.setattr(artifacts, "MAX_FILES", 10)
    hostile_server.respond = Files({"": [MLMODEL, *(inner(f"{n}") for n in range(10))]})
    with pytest.raises(ArtifactsRefused, match="more than 10 files"):
        download(hostile_server, tmp_path / "model")
    hostile_server.respond = Files({"": [MLMODEL, *(file(f"{n}") for n in range(9))]})
    assert download(hostile_server, tmp_path / "model two")


@pytest.mark.parametrize("listing", [b'{"files": {"path": "x"}}', b"[]", b"no", b'{"files": 7}'])
def test_no_listing(hostile_server: HostileServer, tmp_path: Path, listing: bytes) -> None:
    """What is no list of files is unreadable; another time it may be."""
    hostile_server.respond = lambda _: Answer(listing)
    with pytest.raises(RegistryUnreadable) as raised:
        download(hostile_server, tmp_path / "model")
    assert raised.value.transient
    assert len(hostile_server.requests) == len(artifacts._PAUSES) or listing in (
        b'{"files": {"path": "x"}}',
        b'{"files": 7}',
    )


def test_a_server_that_sends_more_than_it_lists(hostile_server: HostileServer, tmp_path: Path) -> None:
    """What is written is counted, of all files together, where no lengths are listed."""
    endless = threading.Event()

    def pieces(_: Request) -> Answer:
        return Answer(b"", declared_length=1 << 40, pieces=(b"x" * 65536 for _ in iter(endless.is_set, True)))

    hostile_server.respond = Files({"": [MLMODEL, file("a"), file("b")]}, {"a": pieces, "b": pieces})
    with pytest.raises(ArtifactsRefused, match=f"larger than the {SMALL} bytes") as raised:
        download(hostile_server, tmp_path / "model")
    endless.set()
    assert not raised.value.transient
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) <= SMALL


@pytest.mark.parametrize("content", [b"ab", b"abcd", b""])
def test_another_length_than_listed(hostile_server: HostileServer, tmp_path: Path, content: bytes) -> None:
    """It may be a file that is being written, or an answer that broke off: it may pass."""
    hostile_server.respond = Files({"": [MLMODEL, file("a", "3")]}, {"a": lambda _: Answer(content)})
    with pytest.raises(RegistryUnreadable, match='"a" does not have the 3 bytes') as raised:
        download(hostile_server, tmp_path / "model")
    assert raised.value.transient
    assert len([one for one in hostile_server.requests if one.path.endswith("/a")]) == len(artifacts._PAUSES)


def test_an_answer_that_is_compressed(hostile_server: HostileServer, tmp_path: Path) -> None:
    """It was not asked for, and is not unpacked, since it may be of any length."""
    compressed = Answer(b"abc", headers={"Content-Encoding": "gzip"})
    hostile_server.respond = Files({"": [MLMODEL]}, {"MLmodel": lambda _: compressed})
    with pytest.raises(RegistryUnreadable, match="compressed, which was not asked for"):
        download(hostile_server, tmp_path / "model")
    assert hostile_server.requests[-1].headers["accept-encoding"] == "identity"


def test_a_redirect_is_not_followed(hostile_server: HostileServer, tmp_path: Path) -> None:
    """Wherever it leads to."""
    with HostileServer() as other:
        elsewhere = Answer(status=302, headers={"Location": f"{other.url}/x"})
        hostile_server.respond = Files({"": [MLMODEL]}, {"MLmodel": lambda _: elsewhere})
        with pytest.raises(RegistryRefused, match="redirect"):
            download(hostile_server, tmp_path / "model")
        assert other.requests == []


def test_a_folder_that_is_not_there(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """MLflow's own words say so, for good."""
    with (
        RegistryClient(scratch_registry.url) as client,
        pytest.raises(RegistryRefused, match="No such artifact") as failed,
    ):
        client.download("mlflow-artifacts:/any", tmp_path / "model", max_bytes=SMALL, watch=lambda *_: None)
    assert not failed.value.transient


def once(first: Answer) -> Callable[[Request], Answer]:
    """Answer this once, then the file."""
    left = [first]
    return lambda _: left.pop() if left else Answer(b"abc")


@pytest.mark.parametrize(
    "first",
    [Answer(b"x", 503), Answer(b"x", 429), Answer(b"ab", declared_length=2), Answer(b"x", 500, declared_length=9)],
)
def test_a_failure_that_passes(hostile_server: HostileServer, tmp_path: Path, first: Answer) -> None:
    """A file, or a listing, that could not be had once is tried again; what it left is not counted."""
    watched: list[int] = []
    hostile_server.respond = Files({"": [MLMODEL, file("a", 3)]}, {"a": once(first)})
    assert download(hostile_server, tmp_path / "model", watch=lambda done, _: watched.append(done), max_bytes=6)
    assert contents(tmp_path / "model") == {"MLmodel": b"abc", "a": b"abc"}
    assert watched[-1] == 6


def test_a_listing_that_passes_later(hostile_server: HostileServer, tmp_path: Path) -> None:
    """It is tried again, too; what stays away is given up after some tries."""
    files = Files({"": [MLMODEL]})
    answers = [Answer(b"x", 503), Answer(b"x", 503)]
    hostile_server.respond = lambda request: answers.pop() if answers else files(request)
    assert download(hostile_server, tmp_path / "model")
    before = len(hostile_server.requests)
    hostile_server.respond = lambda _: Answer(b"x", 503)
    with pytest.raises(RegistryRefused, match="HTTP 503") as raised:
        download(hostile_server, tmp_path / "model two")
    assert raised.value.transient
    assert len(hostile_server.requests) - before == len(artifacts._PAUSES)


def test_a_failure_that_stays_is_not_tried_again(hostile_server: HostileServer, tmp_path: Path) -> None:
    """A file that is listed and is not there."""
    hostile_server.respond = Files({"": [MLMODEL, file("a")]}, {"a": lambda _: Answer(b"x", 404)})
    with pytest.raises(RegistryRefused, match="HTTP 404"):
        download(hostile_server, tmp_path / "model")
    assert [one.path.rpartition("/")[2] for one in hostile_server.requests].count("a") == 1


class Tokens(Credentials):
    """Credentials whose first token has ended."""

    token = "first-secret"  # noqa: S105 - made up

    def authorization(self) -> str:
        """Return the header."""
        return f"Bearer {self.token}"

    def refused(self, authorization: str) -> str:
        """Return another header."""
        self.token = "second-secret"  # noqa: S105 - made up
        return self.authorization()


@pytest.mark.parametrize("good", ["Bearer second-secret", "none"])
def test_credentials_that_are_refused(hostile_server: HostileServer, tmp_path: Path, good: str) -> None:
    """Others are tried once, in the midst of a download too; neither an error nor the log has any of them."""
    files = Files({"": [MLMODEL, file("a", 3)]})

    def respond(request: Request) -> Answer:
        given = request.headers["authorization"]
        if request.path.endswith("/a") and given != good:
            return answer_json({"error_code": "UNAUTHENTICATED", "message": f"not {given}"}, 401)
        return files(request)

    hostile_server.respond = respond
    with capture_logs() as logs, RegistryClient(hostile_server.url, credentials=Tokens()) as client:
        raised = None
        try:
            client.download(URI, tmp_path / "model", max_bytes=SMALL, watch=lambda *_: None)
        except RegistryError as error:
            raised = error
    assert (raised is None) == (good != "none")
    assert raised is None or ("HTTP 401" in str(raised) and raised.transient)
    assert "secret" not in f"{raised} {logs}"
    assert len([one for one in hostile_server.requests if one.path.endswith("/a")]) == 2


def test_no_answer_at_all(unused_tcp_port: int, tmp_path: Path) -> None:
    """It may come later."""
    with RegistryClient(f"http://127.0.0.1:{unused_tcp_port}") as client, pytest.raises(RegistryUnreachable) as raised:
        client.download(URI, tmp_path / "model", max_bytes=SMALL, watch=lambda *_: None)
    assert raised.value.transient


def test_a_path_of_any_length(hostile_server: HostileServer, tmp_path: Path) -> None:
    """One that no URL can have is a fault of the registry."""
    with (
        RegistryClient(hostile_server.url) as client,
        pytest.raises(RegistryUnreadable, match="too long for a request"),
    ):
        client.download("mlflow-artifacts:/" + "x" * 70_000, tmp_path / "m", max_bytes=SMALL, watch=lambda *_: None)


@pytest.mark.parametrize("where", ["listing", "folders", "file"])
def test_a_download_that_nobody_waits_for(hostile_server: HostileServer, tmp_path: Path, where: str) -> None:
    """It ends at once, while the server keeps silent; what comes later is not written."""
    go = threading.Event()
    names = [f"{n}" for n in range(9)]

    def silent(_: Request) -> Answer:
        go.wait(60)
        return Answer(b"abc")

    files = Files({"": [MLMODEL, *map(inner if where == "folders" else file, names)]}, dict.fromkeys(names, silent))

    def respond(request: Request) -> Answer:
        nested = request.query.get("path", [""])[0].startswith("1/m/")
        return silent(request) if where == "listing" or (where == "folders" and nested) else files(request)

    hostile_server.respond = respond
    enough = {"listing": 1, "folders": 1 + artifacts.THREADS, "file": 2 + artifacts.THREADS}[where]

    def watch(*_: int) -> None:
        if len(hostile_server.requests) >= enough:
            raise KeyError

    started = time.monotonic()
    with RegistryClient(hostile_server.url) as client:
        with pytest.raises(KeyError):
            client.download(URI, tmp_path / "model", max_bytes=SMALL, watch=watch)
        assert time.monotonic() - started < 30
        asked = len(hostile_server.requests)
        shutil.rmtree(tmp_path / "model")
        go.set()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name == "artifacts"], 30)
    assert len(hostile_server.requests) == asked
    assert list(tmp_path.iterdir()) == []


def test_what_tells_the_environment_comes_first(hostile_server: HostileServer, tmp_path: Path) -> None:
    """The caller gets it before anything else is asked for, and what it raises ends the download."""
    first = {"MLmodel", "requirements.txt", "python_env.yaml", "conda.yaml", "code/x.whl"}
    listing = {
        "": [file(name) for name in ("MLmodel", "requirements.txt", "python_env.yaml", "conda.yaml", "model.pkl")]
    }
    hostile_server.respond = Files(
        {"": [*listing[""], inner("code")], "code": [file("x.whl"), file("requirements.txt")]}
    )
    seen: list[set[str]] = []

    def begun(folder: Path) -> None:
        seen.append({path for path, content in contents(folder).items() if content is not None})

    assert download(hostile_server, tmp_path / "model", begun=begun)
    assert seen == [first]
    assert contents(tmp_path / "model").keys() == {*first, "code", "model.pkl", "code/requirements.txt"}

    def refuse(_: Path) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        download(hostile_server, tmp_path / "other", begun=refuse)
    assert not (tmp_path / "other" / "model.pkl").exists()


def test_a_large_file_is_never_in_memory(hostile_server: HostileServer, tmp_path: Path) -> None:
    """200 MB are written while a few are allocated, and told as they come."""
    piece, number = bytes(1 << 20), 200
    large = Answer(b"", declared_length=number << 20, pieces=(piece for _ in range(number)))
    hostile_server.respond = Files({"": [MLMODEL, file("large", str(number << 20))]}, {"large": lambda _: large})
    watched: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        assert download(hostile_server, tmp_path / "model", max_bytes=1 << 30, watch=lambda *told: watched.append(told))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "model" / "large").stat().st_size == number << 20
    assert peak < 20 << 20
    assert watched[-1] == ((number << 20) + 3, (number << 20) + 3)
    assert watched == sorted(watched)


ODD = st.text(st.sampled_from("./\\\0ab~\n\udc80 ż"), max_size=4)


@given(st.one_of(ODD, st.text(max_size=300), st.none(), st.integers(), st.just("..\\x")))
def test_plain_names(name: object) -> None:
    """A plain name is one entry of its folder and one that a file system takes; no other name is one."""
    if is_plain(name):
        assert isinstance(name, str)
        assert os.path.split(f"/folder/{name}") == ("/folder", name)
        assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"
        assert len(os.fsencode(name)) <= 255
        assert "\0" not in name
    elif isinstance(name, str):
        surrogates = any("\ud800" <= character <= "\udfff" for character in name)
        assert surrogates or name in ("", ".", "..") or not {"/", "\0"}.isdisjoint(name) or len(name.encode()) > 255
