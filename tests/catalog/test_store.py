"""The last good snapshot on disk."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog import Catalog, SnapshotStore
from prinz_enricher.catalog import store as store_module
from prinz_enricher.catalog.reading import Reading
from prinz_enricher.catalog.snapshot import ModelFile
from prinz_enricher.catalog.store import StoreError, decode, encode
from prinz_enricher.contract import signature_pb2
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry import ModelVersion, RegisteredModel, RegistryClient, RegistryError
from prinz_enricher.signature import AnyValue, Field, Origin, Param, Scalar, ScalarKind, Signature, from_wire
from tests.golden.write_vectors import PATH
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer
from tests.support.synthetic_registry import SyntheticRegistry

GOLDEN = [
    from_wire(signature_pb2.Signature.FromString(bytes.fromhex(one["signature"])))
    for one in json.loads(PATH.read_text(encoding="utf-8"))
]
SCALARS = Scalar(ScalarKind.DOUBLE)
DEFAULTS: list[Any] = [
    None, True, 1, 1.0, -0.0, 2**63 - 1, -(2**63), 0.1, "", "ż\u0000😀", b"\x00\xff", datetime(2024, 2, 29, 1, 2, 3, 4),
    [1, 2.0, None], {"b": 1, "a": {"z": [1], "y": 1.0}},
]  # fmt: skip
ODD = [
    Signature((), (Field("output_0", AnyValue()),), (), Origin.MISSING),
    Signature((Field("x", SCALARS, required=False, description="What it is."),), (Field("y", SCALARS),)),
    *(Signature((), (), (Param("p", SCALARS, default, shape),)) for default in DEFAULTS for shape in (None, (-1,))),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PAIRS = st.dictionaries(TEXTS.filter(bool), TEXTS)
TIMES = st.integers(0, 2**53 - 1)


class Clock:
    """Time that a test moves."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the wall."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> SnapshotStore:
    """A store in a folder that is not there yet."""
    return SnapshotStore(tmp_path / "a" / "catalog", "http://mlflow", clock=clock, wall_clock=clock)


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """A registry of two models."""
    synthetic = hostile_server.respond = SyntheticRegistry("wine", "fraud")
    return synthetic


@pytest.fixture
def client(hostile_server: HostileServer) -> Iterator[RegistryClient]:
    """A client of it."""
    with RegistryClient(hostile_server.url, timeout=2.0) as opened:
        yield opened


def reading_of(*files: ModelFile) -> tuple[Reading, dict[tuple[str, str], ModelFile]]:
    """Return a model with a version for each file."""
    versions = [
        ModelVersion("m", str(number), "", {}, "READY", "", "", "", 0, 0) for number in range(1, len(files) + 1)
    ]
    keys = [(version.name, version.version) for version in versions]
    model = RegisteredModel("m", "", {}, {}, 0, 0)
    return Reading({"m": model}, dict(zip(keys, versions, strict=True))), dict(zip(keys, files, strict=True))


@pytest.mark.parametrize("signature", [*GOLDEN, *ODD], ids=lambda signature: signature.digest[:8])
def test_signatures_come_back_exactly(signature: Signature) -> None:
    """A signature has the digest that it had, and all else that a digest leaves out."""
    reading, files = reading_of(ModelFile(signature, ("sklearn",), "has a fault"), ModelFile(signature))
    back_reading, back = decode(encode(reading, files))
    assert back_reading == reading
    assert back == files
    for key, file in files.items():
        assert back[key].fingerprint == file.fingerprint
        read = back[key].signature
        assert read is not None
        assert read.digest == signature.digest


def test_signature_that_can_not_be_written_is_left_out() -> None:
    """What the wire does not hold exactly is read from the registry again, and the others are there."""
    odd = Signature((), (), (Param("p", SCALARS, 2**64),))
    reading, files = reading_of(
        ModelFile(odd), ModelFile(ODD[0]), ModelFile(None, ("x",), "can't be read"), ModelFile(ODD[0], loader="\ud800")
    )
    _, back = decode(encode(reading, files))
    assert back == {key: file for key, file in files.items() if key not in {("m", "1"), ("m", "4")}}


VERSION = asdict(ModelVersion("m", "1", "", {}, "READY", "", "", "", 0, 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("versions", [[VERSION | {"version": "x"}, None]]),
        ("versions", [[VERSION | {"version": "9" * 5000}, None]]),
        ("versions", [[VERSION, 1]]),
        ("versions", [[VERSION, -1]]),
        ("versions", [[{"name": "m"}, None]]),
        ("models", [{"name": 5}]),
        ("files", [[None, [5], "", ""]]),
        ("files", [["%", [], "", ""]]),
        ("files", [["_w==", [], "", ""]]),
        ("files", 5),
    ],
)
def test_what_was_not_written_so_is_refused(name: str, value: object) -> None:
    """Content that is JSON, and not what this program writes, is damaged."""
    whole = {"models": [], "files": [[None, ["x"], "", ""]], "versions": [[VERSION, 0]]}
    assert decode(json.dumps(whole).encode())[1] == {("m", "1"): ModelFile(None, ("x",))}
    with pytest.raises(StoreError, match="damaged"):
        decode(json.dumps(whole | {name: value}).encode())


@given(TEXTS.filter(bool), TEXTS, PAIRS, PAIRS, TIMES, TIMES)
def test_entities_come_back_exactly(
    name: str, text: str, tags: dict[str, str], aliases: dict[str, str], created: int, updated: int
) -> None:
    """Whatever a registry tells of models and versions comes back."""
    model = RegisteredModel(name, text, tags, aliases, created, updated)
    version = ModelVersion(name, "7", text, tags, text or "READY", text, text, text, created, updated, text)
    reading = Reading({name: model}, {(name, "7"): version})
    assert decode(encode(reading, {})) == (reading, {})


def test_content_of_before_stages_is_read() -> None:
    """A list that was stored without stages is read, with versions in none."""
    version = ModelVersion("m", "1", "", {}, "READY", "", "", "", 0, 0, "Production")
    model = RegisteredModel("m", "", {}, {}, 0, 0)
    stored = json.loads(encode(Reading({"m": model}, {("m", "1"): version}), {}))
    del stored["versions"][0][0]["stage"]
    assert decode(json.dumps(stored).encode())[0].versions["m", "1"] == replace(version, stage="")


def test_file_is_ours_alone(store: SnapshotStore) -> None:
    """Folder and file are for nobody else; nothing is left beside the file."""
    store.save("1", *reading_of())
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert list(store.path.parent.iterdir()) == [store.path]
    assert store.load() is not None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_folder_of_others_is_refused(store: SnapshotStore, mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is read from, or written to, a folder or a file that others may write."""
    store.save("1", *reading_of())
    store.path.parent.chmod(mode)
    assert store.load() is None
    store.path.unlink()
    store.save("2", *reading_of())
    assert list(store.path.parent.iterdir()) == []
    assert capsys.readouterr().out.count("writable by other users") == 2
    store.path.parent.chmod(0o700)
    store.save("3", *reading_of())
    store.path.chmod(mode)
    assert store.load() is None


def test_link_is_not_followed(store: SnapshotStore, tmp_path: Path) -> None:
    """A link, or what is no file, is not read."""
    store.save("1", *reading_of())
    elsewhere = store.path.rename(tmp_path / "elsewhere")
    store.path.symlink_to(elsewhere)
    assert store.load() is None
    store.path.unlink()
    os.mkfifo(store.path, 0o600)
    assert store.load() is None


def test_any_damage_is_seen(store: SnapshotStore) -> None:
    """A file that was cut off or changed anywhere is not used, and never an error."""
    store.save("1", *reading_of(*(ModelFile(signature) for signature in ODD[:2])))
    content = store.path.read_bytes()
    for position in range(len(content)):
        store.path.write_bytes(content[:position])
        assert store.load() is None
        store.path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert store.load() is None
    store.path.write_bytes(content)
    assert store.load() is not None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\xfe", b"[" * 100_000, b'{"kind":"prinz-enricher catalog"}\n']
)
def test_foreign_file_is_ignored(store: SnapshotStore, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not a stored catalog is logged, and not used."""
    store.save("1", *reading_of())
    store.path.write_bytes(content)
    assert store.load() is None
    assert "the stored catalog is not used" in capsys.readouterr().out


@pytest.mark.parametrize("format_number", [1, store_module.FORMAT + 1])
def test_other_format_is_ignored(
    store: SnapshotStore, format_number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another version of this program is not used."""
    with monkeypatch.context() as other:
        other.setattr(store_module, "FORMAT", format_number)
        store.save("1", *reading_of())
    assert store.load() is None
    assert "another version" in capsys.readouterr().out


def test_too_large_file_is_neither_written_nor_read(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what is stored."""
    store.save("1", *reading_of())
    size = store.path.stat().st_size
    monkeypatch.setattr(store_module, "MAX_BYTES", size - 1)
    assert store.load() is None
    before = store.path.read_bytes()
    store.save("2", *reading_of(*(ModelFile(signature) for signature in ODD)))
    assert store.path.read_bytes() == before
    assert list(store.path.parent.iterdir()) == [store.path]


def test_disk_that_fails_is_told_once(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is logged once, nothing is left on it, and the next save that works is as any."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        for revision in "123":
            store.save(revision, *reading_of())
            store.touch(revision)
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert list(store.path.parent.iterdir()) == []
    assert store.outdated("3", at_once=True)
    store.save("3", *reading_of())
    assert store.load() is not None


def test_when_to_save(store: SnapshotStore, clock: Clock) -> None:
    """Only what changed is written, and not all the time."""
    assert store.outdated("1")
    store.save("1", *reading_of())
    assert not store.outdated("1", at_once=True)
    assert not store.outdated("2")
    assert store.outdated("2", at_once=True)
    clock.now += store_module.SAVE_SECONDS
    assert store.outdated("2")
    assert not store.outdated("1")


def test_age_is_that_of_the_last_good_look(store: SnapshotStore, clock: Clock) -> None:
    """Age counts from the last good look of what is stored, and is never negative."""
    store.save("1", *reading_of())
    clock.now += 100
    store.touch("1")
    store.touch("another")
    clock.now += 50
    assert loaded_age(store) == pytest.approx(50, abs=0.01)
    clock.now -= 1000
    assert loaded_age(store) == 0.0


def loaded_age(store: SnapshotStore) -> float:
    """Return the age of what is stored."""
    stored = store.load()
    assert stored is not None
    return stored.age


def test_what_a_killed_process_left_is_removed(store: SnapshotStore, clock: Clock) -> None:
    """A half-written file of long ago goes; one that is being written stays, as does what is not ours."""
    store.save("1", *reading_of())
    old, new, other = (store.path.parent / name for name in (f".{store.path.stem}-a", f".{store.path.stem}-b", "x"))
    for file, age in ((old, 4000), (new, 10), (other, 4000)):
        file.touch()
        os.utime(file, (clock.now - age, clock.now - age))
    assert store.load() is not None
    assert set(store.path.parent.iterdir()) == {store.path, new, other}


def test_registries_have_files_of_their_own(tmp_path: Path) -> None:
    """One folder serves several registries, and several processes before one."""
    assert SnapshotStore(tmp_path, "http://a").path != SnapshotStore(tmp_path, "http://b").path
    assert SnapshotStore(tmp_path, "http://a").path == SnapshotStore(tmp_path, "http://a").path


def test_restart_while_the_registry_is_down(
    store: SnapshotStore, clock: Clock, client: RegistryClient, hostile_server: HostileServer,
    registry: SyntheticRegistry,
) -> None:  # fmt: skip
    """A new process serves what the one before knew, tells how old it is, and catches up by itself."""
    registry.models["wine"].aliases = {"champion": "1"}
    before = Catalog(client, store=store)
    known = before.refresh()
    watch = before.watch("", lambda _: None)
    hostile_server.respond = lambda _: Answer(b"", 500)
    clock.now += 3600
    with Catalog(client, refresh_interval=0.05, store=store) as catalog:
        assert catalog.ready.is_set()
        assert catalog.snapshot().models == known.models
        assert catalog.snapshot().revision == known.revision
        assert 3600 <= catalog.age() < 3700
        wait_until(lambda: catalog.state().failures_in_row > 1)
        state = catalog.state()
        assert (state.stale, state.models, state.versions, state.faults) == (True, 2, 2, 0)
        assert "HTTP 500" in state.fault
        # Who watched the process before goes on with this one.
        assert catalog.watch(watch.token, lambda _: None).missed == ()
        registry.add("new")
        hostile_server.respond = registry
        wait_until(lambda: "new" in catalog.snapshot().models)
        assert catalog.snapshot().models["wine"].fingerprint == known.models["wine"].fingerprint
        wait_until(lambda: not catalog.stale)
        assert catalog.age() < 60
    # What the first look found new is written when the process ends at the latest.
    stored = store.load()
    assert stored is not None
    assert "new" in stored.reading.models


def test_only_who_never_knew_is_unavailable(
    store: SnapshotStore, client: RegistryClient, hostile_server: HostileServer
) -> None:
    """Without anything stored a registry that is down is an error; with it, it is none."""
    catalog = Catalog(client, store=store)
    hostile_server.respond = lambda _: Answer(b"", 500)
    with pytest.raises(RegistryError):
        catalog.refresh()
    with pytest.raises(RegistryUnavailable):
        catalog.snapshot()
    store.save("1", *reading_of())
    catalog._restore()
    assert list(catalog.snapshot().models) == ["m"]


def test_restart_reads_no_file_that_is_known(
    store: SnapshotStore, client: RegistryClient, registry: SyntheticRegistry
) -> None:
    """What was stored of signatures is served while their files can't be read."""
    Catalog(client, store=store).refresh()
    registry.override = dict.fromkeys(["wine/1", "fraud/1"], Answer(b"", 503))
    catalog = Catalog(client, store=store)
    catalog._restore()
    snapshot = catalog.refresh()
    assert [version.fault for model in snapshot.models.values() for version in model.versions] == ["", ""]


def test_catalog_goes_on_without_its_disk(tmp_path: Path, client: RegistryClient, registry: SyntheticRegistry) -> None:
    """A folder that can't be made harms nothing else."""
    (tmp_path / "file").touch()
    with Catalog(client, refresh_interval=0.05, store=SnapshotStore(tmp_path / "file" / "catalog", "x")) as catalog:
        assert catalog.ready.wait(20)
        registry.add("new")
        wait_until(lambda: "new" in catalog.snapshot().models)
