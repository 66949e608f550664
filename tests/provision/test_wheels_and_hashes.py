"""Environments of wheels that come with a model, and of packages by their hashes, without any package index."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from prinz_enricher.provision.environments import Environment, Environments
from prinz_enricher.provision.provision_errors import BuildFailed
from prinz_enricher.provision.uv import Uv
from tests.support.tiny_wheel import write_wheel

NO_WORKER = tuple(f'{name}; python_version < "3"' for name in ("mlflow", "numpy", "pandas", "pyarrow"))
"""Leaves out what a worker needs: it would have to come from an index."""


def environments(folder: Path, *overrides: str) -> Environments:
    """Make environments that download nothing."""
    uv = Uv(offline=True, timeout=60.0)
    return Environments(folder / "environments", uv, max_bytes=1 << 30, mode="auto", overrides=(*NO_WORKER, *overrides))


def model(folder: Path, *lines: str) -> Path:
    """Make a model's folder, or write its requirements anew."""
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(lines))
    return folder


def said_by(found: Environment, module: str) -> str:
    """Import a module in an environment; returns what it prints."""
    ran = subprocess.run([found.python, "-P", "-c", f"import {module}"], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that packages come from, by uv's own settings."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(links))
    return links


def test_a_wheel_of_the_model_is_installed(tmp_path: Path) -> None:
    """From its files alone, beside other wheels; `auto` builds for it, and a model with the same wheel shares it."""
    lines = ["wheels/winery-1.0-py3-none-any.whl", "code/a b/cellar-0.1-py3-none-any.whl"]
    for name in ("one", "two"):
        write_wheel(tmp_path / name / "wheels", "winery", "1.0", code="import cellar; print('red', cellar.YEAR)")
        write_wheel(tmp_path / name / "code" / "a b", "cellar", "0.1", code="YEAR = 1999")
    made = environments(tmp_path)
    with capture_logs() as logs, closing(made.get(model(tmp_path / "one", *lines))) as found:
        assert found.isolated
        assert "winery @ wheels/winery-1.0-py3-none-any.whl" in str(logs[-1]["lacking"])
        assert said_by(found, "winery") == "red 1999"
        with closing(made.get(model(tmp_path / "two", *lines))) as same:
            assert same.lease is not None
            assert not same.lease.fresh
            assert same.python == found.python


def test_a_wheel_of_the_same_name_with_other_content_is_another_environment(tmp_path: Path) -> None:
    """Two models that each bring a winery 1.0 get each their own, though only the content tells them apart."""
    made = environments(tmp_path)
    said = []
    for colour in ("red", "white", "rosé"):
        write_wheel(tmp_path / colour / "wheels", "winery", "1.0", code=f"print({colour!a})")
        with closing(made.get(model(tmp_path / colour, "wheels/winery-1.0-py3-none-any.whl"))) as found:
            said.append(said_by(found, "winery"))
    assert said == ["red", "white", "rosé"]


def test_an_override_goes_before_a_wheel(tmp_path: Path, index: Path) -> None:
    """An operator who names another version gets that one."""
    write_wheel(tmp_path / "model", "winery", "1.0", code="print('of the model')")
    write_wheel(index, "winery", "1.1", code="print('of the index')")
    place = model(tmp_path / "model", "winery-1.0-py3-none-any.whl")
    with closing(environments(tmp_path, "winery==1.1").get(place)) as found:
        assert said_by(found, "winery") == "of the index"


def test_hashes_are_verified(tmp_path: Path, index: Path) -> None:
    """Of requirements that have one; those that have none, as a worker's own needs, are installed beside them."""
    digest = write_wheel(index, "winery", "1.0", code="import plain; print('red')")
    write_wheel(index, "plain", "1.0")
    place = model(tmp_path / "model", f"winery==1.0 --hash=sha256:{'0' * 64} \\", f"  --hash=sha256:{digest}", "plain")
    with closing(environments(tmp_path).get(place)) as found:
        assert found.isolated
        assert said_by(found, "winery") == "red"


@pytest.mark.parametrize(
    "lines",
    [
        ["winery==1.0 --hash=sha256:{wrong}"],
        ["winery==1.0 ; python_version > '3' --hash=sha384:{wrong}" + "0" * 32],
        ["winery==1.0 --hash=sha512:{wrong}{wrong}", "winery", "winery==1.0"],
        ["winery", "-c limits.txt"],
    ],
)
def test_a_package_with_another_hash_is_not_installed(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Whichever line says it, also among the constraints, and also where uv is told elsewhere not to look at hashes."""
    monkeypatch.setenv("UV_NO_VERIFY_HASHES", "1")
    write_wheel(index, "winery", "1.0")
    wrong = "0" * 64
    place = model(tmp_path / "model", *(line.format(wrong=wrong) for line in lines))
    (place / "limits.txt").write_text(f"winery==1.0 --hash=sha256:{wrong}")
    with pytest.raises(BuildFailed, match=r"can't be installed: .*Hash mismatch for .winery==1\.0") as failed:
        environments(tmp_path).get(place)
    assert not failed.value.may_pass
    assert "\n" not in str(failed.value)
