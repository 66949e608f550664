"""What a worker needs of the environment it runs in, beside what its model needs."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from prinz_enricher.provision.entry import parsed, shown, versions
from prinz_enricher.provision.errors import BuildFailed, RequirementsRefused
from prinz_enricher.provision.requirements import Requirements, overridden

OLDEST_PYTHON = (3, 10)
"""The worker's own code needs it."""

OLDEST_MLFLOW = Version("2.9")
"""Likewise."""

_PACKAGES = ("numpy", "pandas", "pyarrow")
_MLFLOW = "mlflow"
_MLFLOWS = (_MLFLOW, "mlflow-skinny")


def with_worker_needs(needed: Requirements, minor: str, overrides: tuple[str, ...]) -> Requirements:
    """Add what a worker needs.

    Args:
        needed: What a model needs, after the overrides.
        minor: The version of the environment's Python, such as `3.11`.
        overrides: Requirements that replace those of the same name, of a worker too.

    Returns:
        Both, to be installed together.

    Raises:
        BuildFailed: Workers do not run on that Python.
        RequirementsRefused: What the model needs allows no MLflow that a worker runs with.
    """
    if tuple(map(int, minor.split("."))) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise BuildFailed(f"the model wants Python {minor}, and workers run on {oldest} or newer")
    # One that is for another Python is not installed, and so does not replace the worker's.
    has_mlflow = any(parsed(one).name in _MLFLOWS for one in _applicable(needed.requirements, minor))
    worker = Requirements(requirements=_PACKAGES if has_mlflow else (*_PACKAGES, _MLFLOW))
    requirements = {*needed.requirements, *overridden(worker, overrides).requirements}
    for name in _MLFLOWS:
        of_name = [one for one in _applicable(requirements, minor) if parsed(one).name == name]
        if of_name and not _allows(of_name):
            told = shown(", ".join(sorted(str(parsed(one)) for one in of_name)))
            raise RequirementsRefused(
                f"the model's requirements allow no MLflow {OLDEST_MLFLOW} or newer, which a worker needs: {told}; set "
                f'workers.overrides = ["{name}>={OLDEST_MLFLOW}"], or log the model anew with a newer MLflow'
            )
    # Whatever else narrows it down, such as the model's constraints, an older one is not to be the way out.
    constraints = (*needed.constraints, *(f"{name}>={OLDEST_MLFLOW}" for name in _MLFLOWS))
    return Requirements(needed.python, tuple(sorted(requirements)), constraints)


def _applicable(entries: Iterable[str], minor: str) -> list[str]:
    ours = minor.split(".") == list(platform.python_version_tuple()[:2])
    python = {} if ours else {"python_version": minor, "python_full_version": f"{minor}.0"}
    markers = ((one, parsed(one).marker) for one in entries)
    return [one for one, marker in markers if marker is None or marker.evaluate({"extra": "", **python})]


def _allows(entries: list[str]) -> bool:
    """Tell whether requirements of MLflow allow, together, a version that is new enough."""
    allowed = SpecifierSet(",".join(str(versions(one)) for one in entries))
    ends = [Version(one.version.removesuffix(".*")) for one in allowed]
    # Where there is any, then one of these: the oldest, the end of a range, or what is right before or behind an end.
    beside = [Version(f"{end.base_version}{more}") for end in ends for more in (".dev0", ".0.0.1")]
    beside += [Version(".".join(map(str, (*end.release[:-1], end.release[-1] + 1)))) for end in ends]
    return any(one >= OLDEST_MLFLOW for one in allowed.filter((OLDEST_MLFLOW, *ends, *beside), prereleases=True))
