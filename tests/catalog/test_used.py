"""Which versions are in use, on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from prinz_enricher.catalog import SnapshotStore, UsedFile, UsedVersion

DAMAGED = [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"kind": "another"}', b" " * (1024 * 1024 + 1)]
DAMAGED += [
    f'{{"kind": "prinz-enricher versions in use, format 1", "used": {used}}}'.encode()
    for used in ("3", "{}", "[null]", '[["wine"]]', '[["wine", 3, "a1"]]', '[["wine", "3", "a1", "more"]]')
]

WINE, FRAUD = UsedVersion("wine", "3", "a1"), UsedVersion("fraud/ż", "1", "b2")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """The file of a snapshot, in a folder that is not there yet."""
    return SnapshotStore(tmp_path / "a" / "catalog", "http://mlflow").path


@pytest.fixture
def file(snapshot: Path) -> UsedFile:
    """What is beside it."""
    return UsedFile(snapshot)


def test_what_is_saved_is_there_in_the_next_process(file: UsedFile, snapshot: Path) -> None:
    """Beside the snapshot, for us alone, with nothing left of its writing."""
    assert file.load() == set()
    file.save([WINE, FRAUD, WINE])
    assert UsedFile(snapshot).load() == {WINE, FRAUD}
    assert list(snapshot.parent.iterdir()) == [file.path]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(snapshot.parent.stat().st_mode) == 0o700
    file.save([])
    assert UsedFile(snapshot).load() == set()


def test_what_has_not_changed_is_not_written(file: UsedFile) -> None:
    """The disk is left alone."""
    file.save([WINE, FRAUD])
    before = file.path.stat()
    file.save([FRAUD, WINE])
    assert file.path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_or_foreign_file_is_ignored(file: UsedFile, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """It is logged in one line, and the next list takes its place."""
    file.save([WINE])
    file.path.write_bytes(content)
    assert file.load() == set()
    assert capsys.readouterr().out.count("the list of versions in use is not used") == 1
    file.save([FRAUD])
    assert file.load() == {FRAUD}


def test_what_others_may_write_is_neither_read_nor_written(
    file: UsedFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with the snapshot: a folder or a file of others, a link, a pipe; one that can't be written is logged once."""
    file.save([WINE])
    file.path.parent.chmod(0o777)
    assert file.load() == set()
    file.save([])
    file.save([FRAUD])
    assert capsys.readouterr().out.count("can't be stored") == 1
    file.path.parent.chmod(0o700)
    assert file.load() == {WINE}
    file.path.chmod(0o666)
    assert file.load() == set()
    file.path.chmod(0o600)
    elsewhere = file.path.rename(tmp_path / "elsewhere")
    file.path.symlink_to(elsewhere)
    assert file.load() == set()
    file.path.unlink()
    os.mkfifo(file.path, 0o600)
    assert file.load() == set()
