"""The packages that the product runs with: those of `prinz-enricher[s3,otel]` and all that they require."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distribution
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = "prinz-enricher"
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    # It does not say which of them.
    "BSD License": "LicenseRef-BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "LicenseRef-PSF",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One package: its licence as an expression of SPDX, empty where none is named, and the packages it requires."""

    name: str
    version: str
    licence: str
    requires: frozenset[str] = frozenset()


def product_packages(licences: Mapping[str, str], extras: tuple[str, ...] = ("s3", "otel")) -> dict[str, Package]:
    """Return the product and its packages by name, as this Python and this machine need them.

    Ends the program where another version is installed than constraints.txt has. `licences` are those of packages whose
    metadata does not name them.
    """
    requires: dict[str, set[str]] = {}
    todo = {(PRODUCT, extra) for extra in ("", *extras)}
    done = set()
    while todo:
        name, extra = wanted = todo.pop()
        done.add(wanted)
        needed = [Requirement(text) for text in distribution(name).requires or ()]
        needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
        requires.setdefault(name, set()).update(canonicalize_name(one.name) for one in needed)
        todo |= {(canonicalize_name(one.name), extra) for one in needed for extra in ("", *one.extras)} - done
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in pins}
    found = {}
    for name in sorted(requires):
        metadata = distribution(name).metadata
        version = metadata["Version"]
        if name != PRODUCT and versions.get(name) != version:
            pinned = versions.get(name, "no version of it")
            raise SystemExit(f"{name} {version} is installed, constraints.txt has {pinned}; run `make clean` first")
        found[name] = Package(name, version, licences.get(name) or licence_of(metadata), frozenset(requires[name]))
    return found


def licence_of(metadata: PackageMetadata) -> str:
    """Return the licence that a package names, as an expression of SPDX; empty where it names none."""
    for field in ("License-Expression", "License"):
        try:
            return canonicalize_license_expression(metadata.get_all(field, [""])[0])
        except InvalidLicenseExpression:
            continue
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if "License ::" in text]
    return " AND ".join(sorted(CLASSIFIERS.get(text, "LicenseRef-unknown") for text in classifiers))
