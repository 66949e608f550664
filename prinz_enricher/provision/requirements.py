"""Which Python and which packages a model needs, from files that a stranger may have written.

One requirement is an entry: what PEP 508 says, then the hashes that its file must have. A package of the index is
`numpy==2.4.6 --hash=sha256:…`, without hashes where the model gives none. A wheel of the model's own files is
`wine @ wheels/wine-1.0-py3-none-any.whl --hash=sha256:…`: its place in the model's folder, as a URL writes it, and its
content, so that two models share an environment only where their wheels are the same.
"""

import hashlib
import importlib.metadata
import lzma
import platform
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from prinz_enricher.provision.provision_errors import BuildFailed, RequirementsRefused
from prinz_enricher.registry.mlmodel_yaml import read_mlmodel
from prinz_enricher.registry.registry_errors import MlmodelUnreadable

# Of each file, and of the METADATA of a wheel.
MAX_BYTES = 1_000_000
MAX_FILES = 20
MAX_LINES = 2000  # Of requirements and constraints in all files together.
# What the worker's own code runs with.
OLDEST_PYTHON = (3, 10)
OLDEST_MLFLOW = Version("2.9")
_MLFLOWS = ("mlflow", "mlflow-skinny")
_WORKER_PACKAGES = ("numpy", "pandas", "pyarrow")
ACCELERATORS = ("onnxruntime>=1.20", "skl2onnx>=1.19")
"""What computes for a model of scikit-learn in its place."""
_PYTHON_ENV = "python_env.yaml"
_REQUIREMENTS = "requirements.txt"
_CONDA = "conda.yaml"
_PYTHON = re.compile(r"\d{1,2}\.\d{1,3}(\.\d{1,3})?")
_CONDA_PYTHON = re.compile(r"python(?![A-Za-z0-9._-])\s*(.*)", re.IGNORECASE)
_CONDA_VERSION = re.compile(r"={1,2}\s*([^\s=]+?)(\.\*)?(=.*)?")
_CONDA_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CONDA_IGNORED = frozenset({"python", "pip", "setuptools", "wheel"})
_INCLUDE = re.compile(
    r"(?:-r\s*|--requirement(?:\s+|=))(?P<requirements>\S.*)|(?:-c\s*|--constraint(?:\s+|=))(?P<constraints>\S.*)"
)
_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = " --hash="
_HASH_OPTION = re.compile(r"\s+--hash(?:\s*=\s*|\s+)")
_VALID_HASH = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_WHEEL = re.compile(r"[^@;\[]+\.whl\s*([\[;].*)?")
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA", re.IGNORECASE)
_REQUIRES = re.compile(r"^Requires-Dist[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_MAX_QUOTED = 120


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a model needs: a version of Python, such as `3.11` or `3.11.7`, and sorted entries with normalised names.

    Packages of the constraints need not be there.
    """

    python: str | None = None
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def python_minor(self) -> str | None:
        """The version of Python without its third number."""
        return None if self.python is None else ".".join(self.python.split(".")[:2])

    def names(self) -> frozenset[str]:
        """Return the names of the packages that are required."""
        return frozenset(parse_entry(one).name for one in self.requirements)


def read_requirements(model_folder: Path) -> Requirements:
    """Read what a model needs from its `python_env.yaml`, `requirements.txt` or `conda.yaml`, the first that is there.

    Raises RequirementsRefused if one can't be read, or wants code from elsewhere than the package index and the model.
    """
    reader = _Reader(model_folder.resolve())
    python = None
    if reader.has(_PYTHON_ENV):
        content = reader.read_yaml(_PYTHON_ENV)
        python = _python(content.get("python"), _PYTHON_ENV)
        for line in _lines(content.get("dependencies"), _PYTHON_ENV):
            reader.add_line(line, _PYTHON_ENV)
    elif reader.has(_REQUIREMENTS):
        reader.add_file(_REQUIREMENTS, constraints=False)
        if reader.has(_CONDA):
            python = _conda_python(reader.read_yaml(_CONDA))
    elif reader.has(_CONDA):
        content = reader.read_yaml(_CONDA)
        python = _conda_python(content)
        for line in _conda_pip(content):
            reader.add_line(line, _CONDA)
    return Requirements(python, tuple(sorted(reader.requirements)), tuple(sorted(reader.constraints)))


def overridden(needed: Requirements, overrides: Iterable[str]) -> Requirements:
    """Replace requirements, and drop constraints, by the overrides of the same name."""
    replacing = [normalise(one) for one in overrides]
    replaced = {parse_entry(one).name for one in replacing}
    kept = [one for one in needed.requirements if parse_entry(one).name not in replaced]
    required = needed.names()
    instead = [one for one in replacing if parse_entry(one).name in required]
    constraints = [one for one in needed.constraints if parse_entry(one).name not in replaced]
    return Requirements(needed.python, tuple(sorted({*kept, *instead})), tuple(constraints))


def with_worker_needs(needed: Requirements, minor: str, overrides: Iterable[str]) -> Requirements:
    """Add what a worker needs, unless overridden, to what its model needs, after overrides, of a Python such as `3.11`.

    Raises BuildFailed if workers do not run on that Python, RequirementsRefused if the model's requirements allow no
    MLflow that a worker runs with.
    """
    if tuple(map(int, minor.split("."))) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise BuildFailed(f"the model wants Python {minor}, and workers run on {oldest} or newer")
    # An MLflow for another Python is not installed, and so does not replace the worker's.
    has_mlflow = any(one.name in _MLFLOWS for one in map(parse_entry, _applicable(needed.requirements, minor)))
    worker = Requirements(requirements=_WORKER_PACKAGES if has_mlflow else (*_WORKER_PACKAGES, _MLFLOWS[0]))
    requirements = {*needed.requirements, *overridden(worker, overrides).requirements}
    for name in _MLFLOWS:
        of_name = [one for one in _applicable(requirements, minor) if parse_entry(one).name == name]
        if of_name and not _allow_mlflow(of_name):
            listed = quoted(", ".join(sorted(str(parse_entry(one)) for one in of_name)))
            raise RequirementsRefused(
                f"the model's requirements allow no MLflow {OLDEST_MLFLOW} or newer, which a worker needs: {listed}; "
                f'set workers.overrides = ["{name}>={OLDEST_MLFLOW}"], or log the model anew with a newer MLflow'
            )
    # Whatever else narrows it down, such as the model's constraints: an older MLflow is not to be the way out.
    constraints = (*needed.constraints, *(f"{name}>={OLDEST_MLFLOW}" for name in _MLFLOWS))
    return Requirements(needed.python, tuple(sorted(requirements)), constraints)


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package: its version, and its own requirements, with markers that name its extras."""

    version: str
    requires: tuple[str, ...] = ()


def find_installed(name: str) -> Distribution | None:
    """Look a package up in the environment of this process; None where it is not installed."""
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    # The metadata of a broken package may be missing.
    version: str | None = found.version
    return None if version is None else Distribution(version, tuple(found.requires or ()))


def unmet(
    needed: Requirements,
    *,
    python: str | None = None,
    installed: Callable[[str], Distribution | None] = find_installed,
) -> tuple[str, ...]:
    """List what an environment lacks with what is there instead, such as `numpy==1.26.4 (2.4.6 is here)`.

    By default it is that of this process; `installed` looks a package up by its normalised name.
    """
    here = python or platform.python_version()
    lacking = []
    minor = needed.python_minor
    if minor is not None and minor.split(".") != here.split(".")[:2]:
        lacking.append(f"python {minor} ({here} is here)")
    # A constrained package need not be there, but if it is, then in such a version.
    constraints = [one for one in needed.constraints if installed(parse_entry(one).name) is not None]
    for one in (*needed.requirements, *constraints):
        lacking += _lacking(one, installed)
    return tuple(dict.fromkeys(lacking))


def _lacking(entry: str, installed: Callable[[str], Distribution | None]) -> Iterator[str]:
    requirement = parse_entry(entry)
    if not _applies(requirement):
        return
    if _HASH in entry:
        # Which file an installed package came from is not known any more.
        yield f"{requirement} (a hash is checked when it is installed)"
        return
    wanted = [requirement]
    if (found := installed(requirement.name)) is not None:
        wanted += [own for extra in requirement.extras for own in _of_extra(found, extra)]
    for one in wanted:
        there = installed(one.name)
        if there is None or not one.specifier.contains(there.version, prereleases=True):
            yield f"{one.name}{one.specifier} ({'none' if there is None else there.version} is here)"
            if one is requirement:
                return


def _of_extra(found: Distribution, extra: str) -> Iterator[Requirement]:
    """Yield the requirements that a package has for one of its extras alone."""
    for text in found.requires:
        # Metadata that no installer could read either is skipped.
        try:
            own = Requirement(text)
            wanted = own.marker is not None and not _applies(own) and own.marker.evaluate({"extra": extra})
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue
        if wanted:
            yield own


def _applies(requirement: Requirement, **python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **python})


def _applicable(entries: Iterable[str], minor: str) -> list[str]:
    """Return the entries that are installed for a version of Python."""
    ours = minor.split(".") == list(platform.python_version_tuple()[:2])
    python = {} if ours else {"python_version": minor, "python_full_version": f"{minor}.0"}
    return [one for one in entries if _applies(parse_entry(one), **python)]


def _allow_mlflow(entries: list[str]) -> bool:
    """Return whether requirements of MLflow allow, together, a version that is new enough."""
    allowed = SpecifierSet(",".join(str(_versions(one)) for one in entries))
    ends = [Version(one.version.removesuffix(".*")) for one in allowed]
    # Where there is any, then one of these: the oldest, the end of a range, or what is right before or behind an end.
    beside = [Version(f"{end.base_version}{more}") for end in ends for more in (".dev0", ".0.0.1")]
    beside += [Version(".".join(map(str, (*end.release[:-1], end.release[-1] + 1)))) for end in ends]
    return any(one >= OLDEST_MLFLOW for one in allowed.filter((OLDEST_MLFLOW, *ends, *beside), prereleases=True))


def _versions(entry: str) -> SpecifierSet:
    """Return which versions an entry allows; a wheel has one."""
    requirement = parse_entry(entry)
    if requirement.url is None:
        return requirement.specifier
    return SpecifierSet(f"=={parse_wheel_filename(unquote(requirement.url).rpartition('/')[2])[1]}")


@dataclass(slots=True)
class _Reader:
    """Reads the files of one model."""

    folder: Path
    requirements: set[str] = field(default_factory=set)
    constraints: set[str] = field(default_factory=set)
    lines: int = 0
    files: set[tuple[Path, bool]] = field(default_factory=set)
    hashes: dict[tuple[bool, str, SpecifierSet], tuple[str, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def read_yaml(self, name: str) -> Mapping[str, object]:
        try:
            return read_mlmodel(self._read(self.folder / name))
        except MlmodelUnreadable as exc:
            why = "is not a YAML mapping, or is beyond the bounds of an MLmodel file"
            raise RequirementsRefused(f"the model's {name} {why}") from exc

    def add_file(self, name: str, *, constraints: bool, beside: Path | None = None) -> None:
        """Read a file of requirements, and those that it includes."""
        try:
            path = ((beside or self.folder) / name).resolve()
        except (OSError, ValueError, RuntimeError) as exc:
            raise RequirementsRefused(f"{quoted(name)} is not a file of the model") from exc
        if not path.is_relative_to(self.folder):
            raise RequirementsRefused(f"{quoted(name)} is not a file of the model")
        if (path, constraints) in self.files:
            return
        self.files.add((path, constraints))
        if len(self.files) > MAX_FILES:
            raise RequirementsRefused(f"the model's requirements are in more than {MAX_FILES} files")
        try:
            text = self._read(path).decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise RequirementsRefused(f"the model's {path.name} is not UTF-8 text") from exc
        for line in _logical_lines(text):
            self.add_line(line, path.name, constraints=constraints, beside=path.parent)

    def add_line(self, line: str, file: str, *, constraints: bool = False, beside: Path | None = None) -> None:
        """Read a line: a requirement, or the name of a file with more of them."""
        text = _COMMENT.sub("", line).strip()
        if not text:
            return
        if (include := _INCLUDE.fullmatch(text)) is not None:
            more = include["constraints"]
            name = (more or include["requirements"]).strip()
            self.add_file(name, constraints=constraints or bool(more), beside=beside)
            return
        if text.startswith("-"):
            option = re.split(r"[\s=]", text, maxsplit=1)[0]
            why = "a model must not choose where code comes from"
            raise RequirementsRefused(f"{quoted(option)} in the model's {file} is not allowed: {why}")
        self.lines += 1
        if self.lines > MAX_LINES:
            raise RequirementsRefused(f"the model has more than {MAX_LINES} requirements")
        try:
            (self.constraints if constraints else self.requirements).add(self._entry(text, constraints=constraints))
        except RequirementsRefused as exc:
            raise RequirementsRefused(f"in the model's {file}: {exc}") from exc

    def _entry(self, line: str, *, constraints: bool) -> str:
        text, hashes = _split_hashes(line)
        if "://" not in text and _WHEEL.fullmatch(text):
            if constraints:
                expected = "expected names of packages among the constraints"
                raise RequirementsRefused(f"{quoted(text)} is a wheel; {expected}")
            return _wheel_entry(self.folder, text, hashes)
        entry = normalise(text)
        if not hashes:
            return entry
        requirement = Requirement(entry)
        pins = list(requirement.specifier)
        if len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith("*"):
            # An installer would pass over the hashes.
            expected = "expected == and that version alone"
            raise RequirementsRefused(f"{quoted(entry)} has a hash, which belongs to one version; {expected}")
        # An installer would keep the hashes of one line, and say nothing of the other's.
        if self.hashes.setdefault((constraints, requirement.name, requirement.specifier), hashes) != hashes:
            raise RequirementsRefused(f"{quoted(text)} has other hashes on another line; expected all of them on each")
        return "".join((entry, *(f"{_HASH}{one}" for one in hashes)))

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as exc:
            raise RequirementsRefused(f"the model's {quoted(path.name)} can't be read") from exc
        if len(content) > MAX_BYTES:
            raise RequirementsRefused(f"the model's {quoted(path.name)} is larger than {MAX_BYTES} bytes")
        return content


def parse_entry(entry: str) -> Requirement:
    """Return the requirement of an entry, without its hashes."""
    return Requirement(entry.partition(_HASH)[0])


def normalise(text: str) -> str:
    """Write a requirement in the one way that entries have; raises RequirementsRefused where it is invalid or a URL."""
    try:
        requirement = Requirement(text)
        requirement.name = canonicalize_name(requirement.name)
        written = str(requirement)
        # Some markers can be written that nobody can evaluate.
        _applies(requirement)
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName, RecursionError) as exc:
        raise RequirementsRefused(f"{quoted(text)} is not a requirement of a package by its name") from exc
    if requirement.url is not None:
        raise RequirementsRefused(f"{quoted(text)} is a package from a URL; expected a package of the index")
    if any(specifier.operator == "===" for specifier in requirement.specifier):
        raise RequirementsRefused(f"{quoted(text)} uses ===, which is not supported")
    return written


def located(entry: str, folder: Path) -> str:
    """Write an entry as uv takes it: a wheel by its full path in the folder of a model that has it."""
    url = parse_entry(entry).url
    return entry if url is None else entry.replace(url, (folder.resolve() / unquote(url)).as_uri(), 1)


def quoted(text: str) -> str:
    """Quote a text for a message: short, in one line, without credentials."""
    line = _CREDENTIALS.sub("://", " ".join(text.split()))
    return f'"{line[:_MAX_QUOTED]}"'


def _split_hashes(line: str) -> tuple[str, tuple[str, ...]]:
    """Return a line of a file of requirements without its hashes, and these, sorted."""
    text, *found = _HASH_OPTION.split(line)
    hashes = tuple(sorted({one.strip().lower() for one in found}))
    for one in hashes:
        if not _VALID_HASH.fullmatch(one):
            raise RequirementsRefused(
                f"{quoted(text)} has the invalid hash {quoted(one)}; expected sha256:, sha384: or sha512: and its hex "
                "digits, and nothing behind them"
            )
    return text, hashes


def _wheel_entry(folder: Path, text: str, hashes: Sequence[str]) -> str:
    """Make the entry of a wheel among the model's own files, whose folder has no links in its path."""
    path = PurePosixPath(text)
    missing = f"{quoted(text)} is missing in the model's folder; expected a wheel among the model's own files"
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
            f"{quoted(text)} is invalid as the path of a wheel; expected one such as "
            "wheels/wine-1.0-py3-none-any.whl, and nothing behind it"
        ) from exc
    except (OSError, ValueError, RuntimeError) as exc:
        raise RequirementsRefused(missing) from exc
    if not matches:
        raise RequirementsRefused(f"{quoted(text)} has another hash than its line says")
    try:
        for one in _required_by_wheel(place):
            normalise(one)
    except RequirementsRefused as exc:
        raise RequirementsRefused(f"the wheel {quoted(text)} requires what is not allowed: {exc}") from exc
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as exc:
        expected = f"expected a wheel with one METADATA of at most {MAX_BYTES} bytes"
        raise RequirementsRefused(f"{quoted(text)} can't be read; {expected}") from exc
    return f"{name} @ {quote(path.as_posix())}{_HASH}{digest}"


def _required_by_wheel(wheel: Path) -> Iterator[str]:
    """Return the requirements in the metadata of a wheel: an installer would get packages from their URLs."""
    with zipfile.ZipFile(wheel) as archive:
        (found,) = [one for one in archive.infolist() if _METADATA.fullmatch(one.filename)]
        with archive.open(found) as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError
    # In the description too: where that begins installers do not all see alike.
    return (" ".join(one[1].split()) for one in _REQUIRES.finditer(content.decode()))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _logical_lines(text: str) -> Iterator[str]:
    """Yield the lines, each joined with the next where it ends with a backslash, as pip does."""
    joined = ""
    for line in text.splitlines():
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1] + " "
            continue
        yield joined + line
        joined = ""
    if joined:
        yield joined


def _listed(listed: object, file: str) -> list[object]:
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise RequirementsRefused(f"the dependencies in the model's {file} are not a list")
    return listed


def _lines(listed: object, file: str) -> Iterator[str]:
    for one in _listed(listed, file):
        if not isinstance(one, str):
            raise RequirementsRefused(f"the dependencies in the model's {file} are not a list of texts")
        yield from _logical_lines(one)


def _python(value: object, file: str) -> str | None:
    if value is None:
        return None
    # YAML reads 3.10 as the number 3.1, which nobody means.
    text = {"3.1": "3.10", "3.2": "3.20"}.get(repr(value), repr(value)) if isinstance(value, float) else value
    if not isinstance(text, str) or not _PYTHON.fullmatch(text.strip()):
        raise RequirementsRefused(f"the model's {file} has an invalid version of Python; expected one such as 3.11.7")
    return text.strip()


def _conda_python(content: Mapping[str, object]) -> str | None:
    for one in _listed(content.get("dependencies"), _CONDA):
        if isinstance(one, str) and (named := _CONDA_PYTHON.fullmatch(one.strip())):
            if not named[1]:
                return None
            # A build or a pattern may follow: python=3.11.7=h2755cc3_0, python=3.11.*
            version = _CONDA_VERSION.fullmatch(named[1])
            return _python(version[1] if version else named[1], _CONDA)
    return None


def _conda_pip(content: Mapping[str, object]) -> Iterator[str]:
    for one in _listed(content.get("dependencies"), _CONDA):
        if isinstance(one, dict) and set(one) == {"pip"}:
            yield from _lines(one["pip"], _CONDA)
            continue
        name = _CONDA_NAME.match(one) if isinstance(one, str) else None
        if name is None or name[0].lower() not in _CONDA_IGNORED:
            what = quoted(one) if isinstance(one, str) else "something"
            raise RequirementsRefused(f"{what} in the model's {_CONDA} is not a package of pip, and can't be installed")
