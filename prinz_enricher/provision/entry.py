"""One requirement as it is kept here: what PEP 508 says, then the hashes that the file must have.

A package of the index is `numpy==2.4.6 --hash=sha256:…`, without hashes where the model gives none. A wheel of the
model's own files is `wine @ wheels/wine-1.0-py3-none-any.whl --hash=sha256:…`: its place in the model's folder, as a
URL writes it, and what was there, so that two models share an environment where their wheels are the same, and only
there.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from prinz_enricher.provision.errors import RequirementsRefused

MAX_METADATA_BYTES = 1_000_000
"""How long the METADATA of a wheel may be."""

_HASH = " --hash="
_WRITTEN = re.compile(r"\s+--hash(?:\s*=\s*|\s+)")
_KNOWN = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_WHEEL = re.compile(r"[^@;\[]+\.whl\s*([\[;].*)?")
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA", re.IGNORECASE)
_REQUIRES = re.compile(r"^Requires-Dist[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_LONGEST_SHOWN = 120
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def parsed(entry: str) -> Requirement:
    """Give an entry without its hashes."""
    return Requirement(entry.partition(_HASH)[0])


def normalised(text: str) -> str:
    """Give a requirement in the one way that it is written here.

    Raises:
        RequirementsRefused: It is none, or one of a URL.
    """
    try:
        requirement = Requirement(text)
        requirement.name = canonicalize_name(requirement.name)
        written = str(requirement)
        if requirement.marker is not None:
            # Some can be written that nobody can evaluate.
            requirement.marker.evaluate({"extra": ""})
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName, RecursionError) as exc:
        raise RequirementsRefused(f"{shown(text)} is no requirement of a package by its name") from exc
    if requirement.url is not None:
        raise RequirementsRefused(f"{shown(text)} is a package from a URL: they come from the package index alone")
    if any(specifier.operator == "===" for specifier in requirement.specifier):
        raise RequirementsRefused(f"{shown(text)} compares versions as texts, which is not supported")
    return written


def has_hash(entry: str) -> bool:
    """Tell whether only certain files will do."""
    return _HASH in entry


def versions(entry: str) -> SpecifierSet:
    """Tell which versions an entry allows; a wheel has one."""
    requirement = parsed(entry)
    if requirement.url is None:
        return requirement.specifier
    return SpecifierSet(f"=={parse_wheel_filename(unquote(requirement.url).rpartition('/')[2])[1]}")


def split_hashes(line: str) -> tuple[str, tuple[str, ...]]:
    """Take the hashes off a line of a file of requirements.

    Returns:
        The rest, and the hashes, sorted.

    Raises:
        RequirementsRefused: One is of another kind than pip takes, or something follows it.
    """
    text, *found = _WRITTEN.split(line)
    hashes = tuple(sorted({one.strip().lower() for one in found}))
    for one in hashes:
        if not _KNOWN.fullmatch(one):
            raise RequirementsRefused(
                f"{shown(text)} has the invalid hash {shown(one)}; expected sha256:, sha384: or sha512: and its hex "
                "digits, and nothing behind them"
            )
    return text, hashes


def with_hashes(normalised: str, hashes: Sequence[str]) -> str:
    """Make the entry of a package of the index.

    Raises:
        RequirementsRefused: There are hashes, and more than one version: an installer would pass over the hashes.
    """
    pins = list(Requirement(normalised).specifier)
    if hashes and (len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith("*")):
        raise RequirementsRefused(
            f"{shown(normalised)} has a hash, which belongs to one version; expected == and that version alone"
        )
    return "".join((normalised, *(f"{_HASH}{one}" for one in hashes)))


def is_wheel(text: str) -> bool:
    """Tell whether a line names a wheel by its path."""
    return "://" not in text and _WHEEL.fullmatch(text) is not None


def wheel(folder: Path, text: str, hashes: Sequence[str]) -> str:
    """Make the entry of a wheel of the model's own files.

    Args:
        folder: The folder with the MLmodel file, without links in its path.
        text: The wheel's path in it.
        hashes: Those that its line gives.

    Raises:
        RequirementsRefused: It is elsewhere or missing, its name is invalid, its hash is another, or it is itself what
            no wheel of the index may be: broken, or in need of a package from a URL.
    """
    path = PurePosixPath(text)
    missing = f"{shown(text)} is missing in the model's folder; expected a wheel among the model's own files"
    try:
        name = parse_wheel_filename(path.name)[0]
        place = (folder / path).resolve()
        within = not path.is_absolute() and ".." not in path.parts and place.is_relative_to(folder)
        if not within or not place.is_file():
            raise RequirementsRefused(missing)
        digest = _digest(place, "sha256")
        matches = not hashes or any(one == _digest(place, one.partition(":")[0]) for one in hashes)
    except InvalidWheelFilename as exc:
        raise RequirementsRefused(
            f"{shown(text)} is invalid as the path of a wheel; expected one such as "
            "wheels/wine-1.0-py3-none-any.whl, and nothing behind it"
        ) from exc
    except (OSError, ValueError, RuntimeError) as exc:
        raise RequirementsRefused(missing) from exc
    if not matches:
        raise RequirementsRefused(f"{shown(text)} has another hash than its line says")
    try:
        for one in _required_by(place):
            normalised(one)
    except RequirementsRefused as exc:
        raise RequirementsRefused(f"the wheel {shown(text)} requires what is not allowed: {exc}") from exc
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as exc:
        raise RequirementsRefused(
            f"{shown(text)} can't be read; expected a wheel with one METADATA of at most {MAX_METADATA_BYTES} bytes"
        ) from exc
    return f"{name} @ {quote(path.as_posix())}{_HASH}{digest}"


def located(entry: str, folder: Path) -> str:
    """Write an entry as uv takes it: a wheel by its full path.

    Args:
        entry: The entry.
        folder: The folder of a model that has it.
    """
    url = parsed(entry).url
    return entry if url is None else entry.replace(url, (folder.resolve() / unquote(url)).as_uri(), 1)


def shown(text: str) -> str:
    """Give a text as it can be part of a sentence: short, in one line, without credentials."""
    line = _CREDENTIALS.sub("://", " ".join(text.split()))
    return f'"{line[:_LONGEST_SHOWN]}"'


def _required_by(wheel: Path) -> Iterator[str]:
    """Give the requirements in the metadata of a wheel: an installer would get packages from their URLs."""
    with zipfile.ZipFile(wheel) as archive:
        (found,) = [one for one in archive.infolist() if _METADATA.fullmatch(one.filename)]
        with archive.open(found) as file:
            content = file.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        raise ValueError
    # In the description too: where that begins installers do not all see alike.
    return (" ".join(one[1].split()) for one in _REQUIRES.finditer(content.decode()))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
