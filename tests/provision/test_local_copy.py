"""Models in folders of this machine, copied without MLflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prinz_enricher.provision.model_cache import copy_local
from prinz_enricher.provision.provision_errors import Cancelled, DownloadFailed

LARGE = 1 << 30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model, with a name that a URI has to quote."""
    folder = tmp_path / "a model, 100%"
    (folder / "code" / "empty").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "code" / "tools.py").write_bytes(b"x = 1\n" * 1000)
    (folder / "nothing").touch()
    return folder


def found(folder: Path) -> dict[str, bytes | None]:
    """Return what is in a folder: the content of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
    }


def watched(_done: int, _total: int) -> None:
    """Go on."""


@pytest.mark.parametrize("form", ["{path}", "file://{quoted}", "file://localhost{quoted}", "{path}/"])
def test_a_folder_is_copied_byte_for_byte(model: Path, tmp_path: Path, form: str) -> None:
    """By a path as by a URI of the scheme file, and modes give nobody else a look."""
    uri = form.format(path=model, quoted=model.as_uri().removeprefix("file://"))
    told: list[tuple[int, int]] = []
    assert copy_local(uri, tmp_path / "copy", LARGE, lambda *numbers: told.append(numbers))
    assert found(tmp_path / "copy") == found(model)
    assert {total for _, total in told} == {6000 + len("flavors: {}\n")}
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "uri", ["s3://bucket/model", "mlflow-artifacts:/1/m", "file:relative", "relative", "file://host/m"]
)
def test_what_is_elsewhere_is_left_to_others(tmp_path: Path, uri: str) -> None:
    """Nothing is made for it."""
    assert not copy_local(uri, tmp_path / "copy", LARGE, watched)
    assert not (tmp_path / "copy").exists()


def test_links_and_devices_are_left_to_others(model: Path, tmp_path: Path) -> None:
    """A link may lead anywhere, and to read a pipe may last forever."""
    for make in (lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, lambda path: path.symlink_to(tmp_path)):
        make(model / "odd")
        assert not copy_local(str(model), tmp_path / "copy", LARGE, watched)
        assert not (tmp_path / "copy").exists()
        (model / "odd").unlink()
    assert copy_local(str(model), tmp_path / "copy", LARGE, watched)


def test_a_folder_without_a_model_is_left_to_others(tmp_path: Path) -> None:
    """Whatever its name."""
    (tmp_path / "folder").mkdir()
    assert not copy_local(str(tmp_path / "folder"), tmp_path / "copy", LARGE, watched)
    assert not copy_local(str(tmp_path / "missing"), tmp_path / "copy", LARGE, watched)


def test_a_model_that_is_too_large_is_refused_before_anything_is_copied(model: Path, tmp_path: Path) -> None:
    """For good, in the words of any download."""
    with pytest.raises(DownloadFailed, match="larger than the 6000 bytes") as failed:
        copy_local(str(model), tmp_path / "copy", 6000, watched)
    assert not failed.value.may_pass
    assert not (tmp_path / "copy").exists()


def test_a_copy_can_be_cancelled(model: Path, tmp_path: Path) -> None:
    """What watches it ends it."""

    def cancel(done: int, _total: int) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        copy_local(str(model), tmp_path / "copy", LARGE, cancel)
