"""Where the service keeps its last good list."""

from pathlib import Path

import pytest

from prinz_enricher.catalog import SnapshotStore
from prinz_enricher.config import RegistrySettings, Settings
from prinz_enricher.service.registries import _store

URL = "http://mlflow:5000"


def path_of(url: str = URL, **registry: object) -> Path:
    """Return the file of a registry by its settings."""
    settings = RegistrySettings.model_validate({"url": url, **registry})
    store = _store(settings, url)
    assert isinstance(store, SnapshotStore)
    return store.path


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert path_of().parent == tmp_path / "prinz-enricher" / "catalog"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of().parent == tmp_path / ".cache" / "prinz-enricher" / "catalog"


def test_no_folder() -> None:
    """An empty setting is no folder, from the environment too."""
    settings = Settings.load(environment={"PRINZ_REGISTRY__SNAPSHOT_FOLDER": ""})
    assert _store(settings.registry, URL) is None


def test_each_registry_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other registries, other stores of the same name elsewhere, and other rules have other files."""
    paths = [path_of(), path_of("http://other:5000"), path_of(exclude=["lab-*"]), path_of(include=["lab-*"])]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        paths.append(path_of("sqlite:///mlflow.db"))
    assert len(set(paths)) == 6
    assert path_of("sqlite:///mlflow.db") == paths[-1]
