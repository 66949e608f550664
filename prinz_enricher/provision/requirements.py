"""Reads which Python and which packages a model says it needs, from files that a stranger may have written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from prinz_enricher.provision.entry import is_wheel, normalised, parsed, shown, split_hashes, wheel, with_hashes
from prinz_enricher.provision.errors import RequirementsRefused
from prinz_enricher.registry.errors import MlmodelUnreadable
from prinz_enricher.registry.mlmodel import read_mlmodel

MAX_BYTES = 1_000_000
"""How long each of the files may be."""

MAX_FILES = 20
MAX_LINES = 2000
"""How many requirements and constraints all files may have together."""

_PYTHON_ENV = "python_env.yaml"
_REQUIREMENTS = "requirements.txt"
_CONDA = "conda.yaml"

_PYTHON = re.compile(r"\d{1,2}\.\d{1,3}(\.\d{1,3})?")
_CONDA_PYTHON = re.compile(r"python(?![A-Za-z0-9._-])\s*(.*)", re.IGNORECASE)
_CONDA_VERSION = re.compile(r"={1,2}\s*([^\s=]+?)(\.\*)?(=.*)?")
_CONDA_NAME = re.compile(r"[A-Za-z0-9._-]+")
_INCLUDE = re.compile(
    r"(?:-r\s*|--requirement(?:\s+|=))(?P<requirements>\S.*)|(?:-c\s*|--constraint(?:\s+|=))(?P<constraints>\S.*)"
)
_COMMENT = re.compile(r"(^|\s)#.*$")
_INSTALLERS = frozenset({"pip", "setuptools", "wheel"})


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a model says it needs.

    Attributes:
        python: The version of Python, such as `3.11` or `3.11.7`; None where it says none.
        requirements: Entries (see `provision.entry`): PEP 508 requirements, with normalised names, each with the
            hashes that its file must have; and wheels of the model's own files. Sorted.
        constraints: Likewise, of packages that need not be there.
    """

    python: str | None = None
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def python_minor(self) -> str | None:
        """The version of Python without its third number."""
        return None if self.python is None else ".".join(self.python.split(".")[:2])

    def names(self) -> frozenset[str]:
        """Give the normalised names of the packages that are required."""
        return frozenset(parsed(one).name for one in self.requirements)


def read_requirements(model_folder: Path) -> Requirements:
    """Read what a model needs: from `python_env.yaml`, else `requirements.txt`, else `conda.yaml`.

    Args:
        model_folder: The folder with the MLmodel file.

    Returns:
        What it needs; nothing where none of the files is there.

    Raises:
        RequirementsRefused: A file can't be read, or wants code from elsewhere than the package index and the model.
    """
    reading = _Reading(model_folder.resolve())
    if reading.has(_PYTHON_ENV):
        content = reading.yaml(_PYTHON_ENV)
        reading.python = _python(content.get("python"), _PYTHON_ENV)
        for line in _texts(content.get("dependencies"), _PYTHON_ENV):
            reading.line(line, _PYTHON_ENV)
    elif reading.has(_REQUIREMENTS):
        reading.file(_REQUIREMENTS, constraints=False)
        if reading.has(_CONDA):
            reading.python = _conda_python(reading.yaml(_CONDA))
    elif reading.has(_CONDA):
        content = reading.yaml(_CONDA)
        reading.python = _conda_python(content)
        for line in _conda_pip(content):
            reading.line(line, _CONDA)
    return reading.result()


def overridden(requirements: Requirements, overrides: tuple[str, ...]) -> Requirements:
    """Replace requirements.

    Args:
        requirements: What a model needs.
        overrides: Requirements that replace any of the same name.
    """
    by_name: dict[str, list[str]] = {}
    for one in map(normalised, overrides):
        by_name.setdefault(Requirement(one).name, []).append(one)
    kept = [one for one in requirements.requirements if parsed(one).name not in by_name]
    instead = [one for name in requirements.names() for one in by_name.get(name, ())]
    constraints = [one for one in requirements.constraints if parsed(one).name not in by_name]
    return Requirements(requirements.python, tuple(sorted({*kept, *instead})), tuple(constraints))


@dataclass(slots=True)
class _Reading:
    """The files of one model, as far as they were read."""

    folder: Path
    python: str | None = None
    requirements: set[str] = field(default_factory=set)
    constraints: set[str] = field(default_factory=set)
    lines: int = 0
    files: set[tuple[Path, bool]] = field(default_factory=set)
    hashes: dict[tuple[bool, str, SpecifierSet], tuple[str, ...]] = field(default_factory=dict)

    def result(self) -> Requirements:
        return Requirements(self.python, tuple(sorted(self.requirements)), tuple(sorted(self.constraints)))

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def yaml(self, name: str) -> Mapping[str, object]:
        try:
            return read_mlmodel(self._bytes(self.folder / name))
        except MlmodelUnreadable as exc:
            why = "is no YAML mapping, or nested too deep, or has merge keys"
            raise RequirementsRefused(f"the model's {name} {why}") from exc

    def file(self, name: str, *, constraints: bool, beside: Path | None = None) -> None:
        """Read a file of requirements, and those that it includes."""
        path = self._inside(name, beside or self.folder)
        if (path, constraints) in self.files:
            return
        self.files.add((path, constraints))
        if len(self.files) > MAX_FILES:
            raise RequirementsRefused(f"the model's requirements are in more than {MAX_FILES} files")
        try:
            text = self._bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise RequirementsRefused(f"the model's {path.name} is no text in UTF-8") from exc
        for line in _logical_lines(text):
            self.line(line, path.name, constraints=constraints, beside=path.parent)

    def line(self, line: str, file: str, *, constraints: bool = False, beside: Path | None = None) -> None:
        """Take one line: a requirement, or the name of a file with more of them."""
        text = _COMMENT.sub("", line).strip()
        if not text:
            return
        include = _INCLUDE.fullmatch(text)
        if include is not None:
            more = include["constraints"]
            self.file((more or include["requirements"]).strip(), constraints=constraints or bool(more), beside=beside)
            return
        if text.startswith("-"):
            option = re.split(r"[\s=]", text, maxsplit=1)[0]
            raise RequirementsRefused(
                f"{shown(option)} in the model's {file} is not allowed: a model does not say where code comes from"
            )
        self.lines += 1
        if self.lines > MAX_LINES:
            raise RequirementsRefused(f"the model has more than {MAX_LINES} requirements")
        try:
            (self.constraints if constraints else self.requirements).add(self._entry(text, constraints=constraints))
        except RequirementsRefused as exc:
            raise RequirementsRefused(f"in the model's {file}: {exc}") from exc

    def _entry(self, line: str, *, constraints: bool) -> str:
        text, hashes = split_hashes(line)
        if is_wheel(text):
            if constraints:
                raise RequirementsRefused(f"{shown(text)} is a wheel; expected names of packages among the constraints")
            return wheel(self.folder, text, hashes)
        entry = with_hashes(normalised(text), hashes)
        if hashes:
            pinned = parsed(entry)
            # An installer would keep the hashes of one line, and say nothing of the other's.
            if self.hashes.setdefault((constraints, pinned.name, pinned.specifier), hashes) != hashes:
                raise RequirementsRefused(
                    f"{shown(text)} has other hashes on another line; expected all of them on each"
                )
        return entry

    def _inside(self, name: str, beside: Path) -> Path:
        try:
            path = (beside / name).resolve()
        except (OSError, ValueError, RuntimeError) as exc:
            raise RequirementsRefused(f"{shown(name)} is no file of the model") from exc
        if not path.is_relative_to(self.folder):
            raise RequirementsRefused(f"{shown(name)} is no file of the model")
        return path

    def _bytes(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as exc:
            raise RequirementsRefused(f"the model's {shown(path.name)} can't be read") from exc
        if len(content) > MAX_BYTES:
            raise RequirementsRefused(f"the model's {shown(path.name)} is larger than {MAX_BYTES} bytes")
        return content


def _logical_lines(text: str) -> Iterator[str]:
    """Give the lines, each joined with the next where it ends with a backslash, as pip does."""
    joined = ""
    for line in text.splitlines():
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1] + " "
            continue
        yield joined + line
        joined = ""
    if joined:
        yield joined


def _texts(listed: object, file: str) -> list[str]:
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise RequirementsRefused(f"the dependencies in the model's {file} are no list of texts")
    return [line for one in listed for line in _logical_lines(one)]


def _python(value: object, file: str) -> str | None:
    if value is None:
        return None
    # YAML reads 3.10 as the number 3.1, which nobody means.
    text = {"3.1": "3.10", "3.2": "3.20"}.get(repr(value), repr(value)) if isinstance(value, float) else value
    if not isinstance(text, str) or not _PYTHON.fullmatch(text.strip()):
        raise RequirementsRefused(f"the model's {file} names no version of Python such as 3.11.7")
    return text.strip()


def _conda_python(content: Mapping[str, object]) -> str | None:
    for one in _conda_list(content):
        if isinstance(one, str) and (named := _CONDA_PYTHON.fullmatch(one.strip())):
            if not named[1]:
                return None
            # A build or a pattern may follow: python=3.11.7=h2755cc3_0, python=3.11.*
            version = _CONDA_VERSION.fullmatch(named[1])
            return _python(version[1] if version else named[1], _CONDA)
    return None


def _conda_pip(content: Mapping[str, object]) -> list[str]:
    lines = []
    for one in _conda_list(content):
        if isinstance(one, dict) and set(one) == {"pip"}:
            lines += _texts(one["pip"], _CONDA)
            continue
        name = _CONDA_NAME.match(one) if isinstance(one, str) else None
        if name is None or name[0].lower() not in {"python", *_INSTALLERS}:
            what = shown(one) if isinstance(one, str) else "something"
            raise RequirementsRefused(f"{what} in the model's {_CONDA} is no package of pip, and can't be installed")
    return lines


def _conda_list(content: Mapping[str, object]) -> list[object]:
    listed = content.get("dependencies")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise RequirementsRefused(f"the dependencies in the model's {_CONDA} are no list")
    return listed
