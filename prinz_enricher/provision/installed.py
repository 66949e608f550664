"""Tells which of a model's requirements the environment of this process does not meet."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from prinz_enricher.provision.entry import has_hash, parsed
from prinz_enricher.provision.requirements import Requirements


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package.

    Attributes:
        version: Its version.
        requires: Its own requirements, with markers that name its extras.
    """

    version: str
    requires: tuple[str, ...] = ()


def installed_here(name: str) -> Distribution | None:
    """Look a package up in the environment of this process; None where it is not there."""
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    # Of a package that is broken, metadata may be missing.
    version: str | None = found.version
    return None if version is None else Distribution(version, tuple(found.requires or ()))


def unmet(
    requirements: Requirements,
    *,
    python: str | None = None,
    installed: Callable[[str], Distribution | None] = installed_here,
) -> tuple[str, ...]:
    """List what an environment lacks.

    Args:
        requirements: What a model needs.
        python: The version of the environment's Python; that of this process by default.
        installed: Looks a package up by its normalised name.

    Returns:
        For each requirement that is not met what is there instead, such as `numpy==1.26.4 (2.4.6 is here)`.
    """
    here = python or platform.python_version()
    lacking = []
    minor = requirements.python_minor
    if minor is not None and minor.split(".") != here.split(".")[:2]:
        lacking.append(f"python {minor} ({here} is here)")
    for one in requirements.requirements:
        lacking += _lacking(one, installed)
    for one in requirements.constraints:
        # It need not be there, but if it is, then in such a version.
        if installed(parsed(one).name) is not None:
            lacking += _lacking(one, installed)
    return tuple(dict.fromkeys(lacking))


def _lacking(entry: str, installed: Callable[[str], Distribution | None]) -> Iterator[str]:
    requirement = parsed(entry)
    if not _applies(requirement):
        return
    if has_hash(entry):
        # Which file an installed package came from is not known any more.
        yield f"{requirement} (a hash is checked when it is installed)"
        return
    found = installed(requirement.name)
    if not _suits(requirement, found):
        yield _told(requirement, found)
        return
    if found is None:
        return
    for extra in requirement.extras:
        for own in _of_extra(found, extra):
            there = installed(own.name)
            if not _suits(own, there):
                yield _told(own, there)


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _of_extra(found: Distribution, extra: str) -> Iterator[Requirement]:
    """Give the requirements that a package has for one of its extras alone."""
    for text in found.requires:
        try:
            own = Requirement(text)
            wanted = own.marker is not None and not _applies(own) and own.marker.evaluate({"extra": extra})
        except (InvalidRequirement, UndefinedEnvironmentName):
            # Of metadata that no installer could read either.
            continue
        if wanted:
            yield own


def _suits(requirement: Requirement, found: Distribution | None) -> bool:
    return found is not None and requirement.specifier.contains(found.version, prereleases=True)


def _told(requirement: Requirement, found: Distribution | None) -> str:
    plain = f"{requirement.name}{requirement.specifier}"
    return f"{plain} ({'none' if found is None else found.version} is here)"
