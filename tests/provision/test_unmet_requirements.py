"""What the environment of this process lacks of what a model needs."""

from __future__ import annotations

import importlib.metadata

import pytest

from prinz_enricher.provision.requirements import Distribution, Requirements, find_installed, unmet

HERE = {
    "numpy": Distribution("2.4.6"),
    "torch": Distribution("2.1.0+cpu"),
    "beta": Distribution("2.0b1"),
    "old": Distribution("weird"),
    "mlflow": Distribution(
        "3.17.2",
        (
            "numpy>=1",
            'boto3>=1; extra == "extras"',
            'numpy<2; extra == "old"',
            'x; os_name == "none" and extra == "old"',
            "{",
        ),
    ),
}

HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("requirement", "lacking"),
    [
        ("numpy", ()),
        ("numpy==2.4.6", ()),
        ("numpy<2", ("numpy<2 (2.4.6 is here)",)),
        ("scipy", ("scipy (none is here)",)),
        ('scipy; python_version < "3"', ()),
        ('numpy<2; python_version >= "3"', ("numpy<2 (2.4.6 is here)",)),
        ("torch==2.1.0", ()),
        ("beta>=1", ()),
        ("old", ()),
        ("old>=1", ("old>=1 (weird is here)",)),
        ("mlflow[extras]==3.17.2", ("boto3>=1 (none is here)",)),
        ("mlflow[old]", ("numpy<2 (2.4.6 is here)",)),
        ("mlflow[unknown]", ()),
        (f"numpy==2.4.6 {HASH}", ("numpy==2.4.6 (a hash is checked when it is installed)",)),
        (f'numpy==1; python_version < "3" {HASH}', ()),
        (f"wine @ wheels/wine-1.whl {HASH}", ("wine @ wheels/wine-1.whl (a hash is checked when it is installed)",)),
    ],
)
def test_one_requirement(requirement: str, lacking: tuple[str, ...]) -> None:
    """Versions, markers and extras count as they do for installers."""
    needed = Requirements(requirements=(requirement,))
    assert unmet(needed, installed=HERE.get) == lacking


def test_python_by_its_minor_version() -> None:
    """The third number of Python changes nothing for a model."""
    assert unmet(Requirements("3.11.7"), python="3.11.2") == ()
    assert unmet(Requirements("3.11"), python="3.11.2") == ()
    assert unmet(Requirements("3.1"), python="3.11.2") == ("python 3.1 (3.11.2 is here)",)
    assert unmet(Requirements("3.12.1"), python="3.11.2") == ("python 3.12 (3.11.2 is here)",)


def test_constraints_of_what_is_there() -> None:
    """A package that is not there breaks no constraint."""
    needed = Requirements(constraints=("numpy<2", "scipy<2", "mlflow<4"))
    assert unmet(needed, installed=HERE.get) == ("numpy<2 (2.4.6 is here)",)
    needed = Requirements(constraints=(f"numpy==2.4.6 {HASH}", f"scipy==2 {HASH}"))
    assert unmet(needed, installed=HERE.get) == ("numpy==2.4.6 (a hash is checked when it is installed)",)


def test_this_environment() -> None:
    """What is installed here is found; nothing needed is nothing lacking."""
    assert unmet(Requirements()) == ()
    assert unmet(Requirements(requirements=(f"mlflow=={importlib.metadata.version('mlflow')}", "numpy"))) == ()
    assert unmet(Requirements(requirements=("never-published-anywhere",))) == (
        "never-published-anywhere (none is here)",
    )
    assert find_installed("never-published-anywhere") is None
