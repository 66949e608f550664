"""What a worker needs beside its model."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from prinz_enricher.provision.provision_errors import BuildFailed, RequirementsRefused
from prinz_enricher.provision.requirements import Requirements, with_worker_needs

HERE = ".".join(map(str, sys.version_info[:2]))
WHEEL = "mlflow @ wheels/mlflow-{}-py3-none-any.whl --hash=sha256:" + "0" * 64


def add(*requirements: str, constraints: tuple[str, ...] = (), overrides: tuple[str, ...] = ()) -> Requirements:
    """Add to requirements what a worker needs, in the Python of this process."""
    return with_worker_needs(Requirements(None, requirements, constraints), HERE, overrides)


@pytest.mark.parametrize(
    "requirements",
    [
        ("mlflow<2",),
        ("mlflow==1.30",),
        ("mlflow==1.30 --hash=sha256:" + "0" * 64,),
        ("mlflow<2.9",),
        ("mlflow~=2.8.1",),
        ("mlflow==2.8.*",),
        ("mlflow==2.9.0rc1",),
        ("mlflow<2.10,!=2.9.*",),
        ("mlflow<=2.9,!=2.9",),
        ("mlflow<2.9.0,>=2.0",),
        ("mlflow-skinny<2",),
        ("mlflow", "mlflow>=1.0", "mlflow<2"),
        ("mlflow", "mlflow-skinny==2.8.1"),
        ('mlflow<2; python_version >= "3.8"', 'mlflow>=2.9; python_version < "3.8"'),
        (WHEEL.format("1.30.0"),),
    ],
)
def test_an_mlflow_that_workers_do_not_run_with(requirements: tuple[str, ...]) -> None:
    """It is told, and what to do; an override wins."""
    with pytest.raises(RequirementsRefused, match=r"allow no MLflow 2\.9 or newer, which a worker needs: ") as refused:
        add(*requirements)
    name = "mlflow-skinny" if "skinny" in requirements[-1] else "mlflow"
    assert f'set workers.overrides = ["{name}>=2.9"]' in str(refused.value)
    assert "--hash" not in str(refused.value)
    assert not refused.value.may_pass


@pytest.mark.parametrize(
    "requirements",
    [
        ("mlflow",),
        ("mlflow>1",),
        ("mlflow>2.8",),
        ("mlflow!=2.9",),
        ("mlflow!=2.9.*",),
        ("mlflow<=2.9",),
        ("mlflow==2.9.*",),
        ("mlflow~=2.8",),
        ("mlflow==2.*",),
        ("mlflow>2.9,<2.10",),
        ("mlflow==3.18.0rc1",),
        ("mlflow>=3.0rc1,<4",),
        ("mlflow==2.9.2+dbx.1",),
        ("mlflow==3.*,<=3.0,!=3.0",),
        ("mlflow[extras]==3.17.2",),
        ("mlflow-skinny==3.17.2",),
        ("mlflow>=1", "mlflow<3"),
        ("mlflow>=3", 'mlflow<2; python_version < "3.8"'),
        (WHEEL.format("3.1.0"),),
    ],
)
def test_an_mlflow_that_workers_run_with(requirements: tuple[str, ...]) -> None:
    """It is what the model says, and no older one is taken for the sake of other packages."""
    needed = add(*requirements)
    assert needed.requirements == tuple(sorted((*requirements, "numpy", "pandas", "pyarrow")))
    assert needed.constraints == ("mlflow>=2.9", "mlflow-skinny>=2.9")


def test_a_model_that_names_no_mlflow() -> None:
    """It gets one, within its constraints, and so does a model whose MLflow is for another Python."""
    assert "mlflow" in add().requirements
    assert "mlflow" in add('mlflow<2; python_version < "3.8"').requirements
    assert "mlflow" not in add("mlflow-skinny").requirements
    assert add(constraints=("mlflow<2.5",)).constraints == ("mlflow<2.5", "mlflow>=2.9", "mlflow-skinny>=2.9")


def test_overrides_of_what_a_worker_needs() -> None:
    """They stand in its place, and are held to the same."""
    assert "mlflow==3.17.2" in add(overrides=("mlflow==3.17.2", "numpy<3")).requirements
    assert "numpy<3" in add(overrides=("mlflow==3.17.2", "numpy<3")).requirements
    with pytest.raises(RequirementsRefused, match=r"mlflow==2\.8"):
        add(overrides=("mlflow==2.8",))


def test_markers_are_judged_for_the_python_of_the_environment() -> None:
    """Which may be another than that of the service."""
    needed = Requirements(None, ('mlflow<2; python_version < "3.11"', 'mlflow>=3; python_version >= "3.11"'))
    assert with_worker_needs(needed, "3.99", ()).requirements[:2] == needed.requirements
    with pytest.raises(RequirementsRefused, match="allow no MLflow"):
        with_worker_needs(needed, "3.10", ())
    with pytest.raises(BuildFailed, match=r"wants Python 3\.9, and workers run on 3\.10 or newer"):
        with_worker_needs(needed, "3.9", ())


VERSION = st.sampled_from(["1", "2", "2.8", "2.8.1", "2.9", "2.9.0", "2.9.1", "2.10", "3", "3.1"])
SPECIFIER = st.one_of(
    st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), VERSION, st.just("")),
    st.tuples(st.sampled_from(["==", "!="]), VERSION, st.just(".*")),
    st.tuples(st.just("~="), VERSION.filter(lambda version: "." in version), st.just("")),
).map("".join)


@given(st.lists(SPECIFIER, min_size=1, max_size=4).map(",".join))
def test_any_specifier_is_judged_as_sets_are(specifier: str) -> None:
    """It is refused exactly where the set of versions from 2.9 on that it allows is empty."""
    empty = (SpecifierSet(specifier) & SpecifierSet(">=2.9")).is_unsatisfiable()
    try:
        add(f"mlflow{specifier}")
    except RequirementsRefused:
        assert empty
    else:
        assert not empty
