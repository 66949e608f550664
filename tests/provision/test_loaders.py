"""Which modules may load a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from prinz_enricher.errors import FORECASTERS, LoaderNotAllowed
from prinz_enricher.provision.loaders import DEFAULT_LOADERS, allows, check_loader
from prinz_enricher.provision.provision_errors import LoaderForbidden, ProvisionError
from tests.support.registry_writer import mlmodel_text


def model(folder: Path, loader: str) -> Path:
    """Make a model's folder whose MLmodel file names a loader."""
    (folder / "MLmodel").write_text(mlmodel_text().replace("mlflow.sklearn", loader))
    return folder


@pytest.mark.parametrize("loader", DEFAULT_LOADERS)
def test_the_defaults_are_modules_of_mlflow(tmp_path: Path, loader: str) -> None:
    """Each of them loads models in the MLflow that is installed, and is allowed."""
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.submodule_search_locations is not None
    place = Path(found.submodule_search_locations[0], *loader.split(".")[1:])
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    assert "_load_pyfunc" in source.read_text()
    assert check_loader(model(tmp_path, loader), DEFAULT_LOADERS) == loader


@pytest.mark.parametrize(
    "loader",
    ["mlflow.spark", "mlflow.langchain", "mlflow.transformers", "os", "mlflow.sklearn.utils", "MLFLOW.sklearn"],
)
def test_others_are_forbidden(tmp_path: Path, loader: str) -> None:
    """The error names the module; an operator may allow it, by a pattern too."""
    with pytest.raises(LoaderForbidden, match=f"models loaded by {loader} are not allowed") as forbidden:
        check_loader(model(tmp_path, loader), DEFAULT_LOADERS)
    assert forbidden.value.loader == loader
    assert not forbidden.value.may_pass
    assert check_loader(tmp_path, (*DEFAULT_LOADERS, loader[:3] + "*")) == loader


@pytest.mark.parametrize("loader", FORECASTERS)
def test_by_default_forecasters_are_forbidden(tmp_path: Path, loader: str) -> None:
    """The error names the module, and callers are told why; an operator who sets a list decides alone."""
    with pytest.raises(LoaderForbidden, match=f"models loaded by {loader} are not allowed") as forbidden:
        check_loader(model(tmp_path, loader), DEFAULT_LOADERS)
    assert forbidden.value.loader == loader
    assert not forbidden.value.may_pass
    told = LoaderNotAllowed("sales", "1", loader).message
    assert "a forecaster answers with rows of its own; log a python_function" in told
    assert "forecaster" not in LoaderNotAllowed("sales", "1", "mlflow.spark").message
    for allowed in ("*", "mlflow.*", loader):
        assert check_loader(tmp_path, (allowed,)) == loader


@pytest.mark.parametrize(
    ("allowed", "loader", "may"),
    [
        (("mlflow.*",), "mlflow.spark", True),
        (("mlflow.*",), "os", False),
        (("mlflow.*",), "MLFLOW.sklearn", False),
        (("mlflow.*", "!mlflow.spark"), "mlflow.spark", False),
        (("!mlflow.spark", "mlflow.*"), "mlflow.spark", False),
        (("mlflow.*", "!mlflow.spark"), "mlflow.sparkle", True),
        (("*", "!mlflow.p*", "mlflow.prophet"), "mlflow.prophet", False),
        (("*", "!*"), "mlflow.sklearn", False),
        (("!mlflow.spark",), "mlflow.sklearn", False),
        (("*", "!"), "mlflow.sklearn", True),
        ((), "mlflow.sklearn", False),
    ],
)
def test_patterns(allowed: tuple[str, ...], loader: str, *, may: bool) -> None:
    """What a pattern with ! matches is refused, wherever that stands; what none allows is refused as well."""
    assert allows(allowed, loader) == may


def test_the_loader_is_told_from_its_flavour() -> None:
    """The names that are refused are those that MLflow writes."""
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.submodule_search_locations is not None
    source = (Path(found.submodule_search_locations[0]) / "pmdarima" / "__init__.py").read_text()
    assert 'loader_module="mlflow.pmdarima"' in source


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"flavors: 1", b"flavors: {python_function: 1}", b"flavors: {sklearn: {}}",
                b"flavors: {python_function: {loader_module: [a]}}", b"[" * 1000]
)  # fmt: skip
def test_an_mlmodel_that_names_none(tmp_path: Path, content: bytes) -> None:
    """It is told, whatever the file holds."""
    (tmp_path / "MLmodel").write_bytes(content)
    with pytest.raises(ProvisionError):
        check_loader(tmp_path, ("*",))


def test_a_model_without_mlmodel(tmp_path: Path) -> None:
    """It is told."""
    with pytest.raises(ProvisionError, match="MLmodel file can't be read"):
        check_loader(tmp_path, ("*",))
