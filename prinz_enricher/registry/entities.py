"""Registered models and their versions, as immutable values read from MLflow's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from prinz_enricher.registry.errors import RegistryUnreadable

T = TypeVar("T")

READY = "READY"
"""The status of a version that can be used."""

ARCHIVED = "Archived"
"""The stage of a version that is out of use."""

_MAX_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model.

    Attributes:
        aliases: Alias to version number.
        created_ms: Milliseconds since the epoch.
        updated_ms: Likewise; setting an alias or a tag does not move it.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model.

    Attributes:
        name: The model's name.
        version: Its number as text, such as `3`.
        status: `READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`.
        source: Where the registry says that its files are.
        created_ms: Milliseconds since the epoch.
        updated_ms: Likewise; setting an alias or a tag does not move it.
        stage: `None`, `Staging`, `Production` or `Archived`; empty if the registry has no stages.
    """

    name: str
    version: str
    description: str
    tags: Mapping[str, str]
    status: str
    status_message: str
    run_id: str
    source: str
    created_ms: int
    updated_ms: int
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """All entities of one kind.

    Attributes:
        items: Those that could be read, each once.
        faults: A message for each of the others.
        pages: Number of pages. MLflow's page tokens are offsets: if an entity is deleted between two pages, another one
            is on neither.
    """

    items: tuple[T, ...]
    faults: tuple[str, ...] = ()
    pages: int = 1


class EntityError(ValueError):
    """An entity of the registry is invalid."""


def read_entity(read: Callable[[object], T], entry: object) -> T:
    """Read a single entity.

    Raises:
        RegistryUnreadable: It is invalid.
    """
    try:
        return read(entry)
    except EntityError as error:
        raise RegistryUnreadable(str(error)) from error


def read_listing(
    pages: Iterable[Iterable[object]], read: Callable[[object], T], key: Callable[[T], object]
) -> Listing[T]:
    """Read entities one by one, so that an invalid one does not take the others down.

    Args:
        pages: Of entities, from MLflow's JSON.
        read: Reads one of them.
        key: Identifies an entity. Pages overlap if something was created between two of them; the later wins.
    """
    items: dict[object, T] = {}
    faults: list[str] = []
    count = 0
    for page in pages:
        count += 1
        for entry in page:
            try:
                item = read(entry)
            except EntityError as error:
                faults.append(str(error))
            else:
                items[key(item)] = item
    return Listing(tuple(items.values()), tuple(faults), count)


def read_registered_model(entry: object) -> RegisteredModel:
    """Read a registered model.

    Raises:
        EntityError: It is invalid.
    """
    fields = _mapping(entry, "A registered model")
    name = _name(fields)
    where = f'The registered model "{_shorten(name)}"'
    return RegisteredModel(
        name=name,
        description=_text(fields, "description", where),
        tags=_pairs(fields, "tags", "key", "value", where),
        aliases=_pairs(fields, "aliases", "alias", "version", where),
        created_ms=_millis(fields, "creation_timestamp", where),
        updated_ms=_millis(fields, "last_updated_timestamp", where),
    )


def read_model_version(entry: object) -> ModelVersion:
    """Read a version of a registered model.

    Raises:
        EntityError: It is invalid.
    """
    fields = _mapping(entry, "A model version")
    name = _name(fields)
    version = fields.get("version")
    # MLflow writes the number as text; others of its kind may write a number.
    number = str(version) if isinstance(version, (str, int)) and not isinstance(version, bool) else ""
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise EntityError(f'A version of the registered model "{_shorten(name)}" has no number.')
    where = f'Version {number} of the registered model "{_shorten(name)}"'
    return ModelVersion(
        name=name,
        version=str(int(number)),
        description=_text(fields, "description", where),
        tags=_pairs(fields, "tags", "key", "value", where),
        status=_text(fields, "status", where) or READY,
        status_message=_text(fields, "status_message", where),
        run_id=_text(fields, "run_id", where),
        source=_text(fields, "source", where),
        created_ms=_millis(fields, "creation_timestamp", where),
        updated_ms=_millis(fields, "last_updated_timestamp", where),
        stage=_text(fields, "current_stage", where),
    )


def _mapping(entry: object, where: str) -> Mapping[str, object]:
    if isinstance(entry, Mapping):
        return entry
    raise EntityError(f"{where} is not a JSON object.")


def _name(fields: Mapping[str, object]) -> str:
    name = fields.get("name")
    if isinstance(name, str) and name and _is_unicode(name):
        return name
    raise EntityError("An entity of the registry has no name.")


def _text(fields: Mapping[str, object], key: str, where: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, str) and _is_unicode(value):
        return value
    raise EntityError(f"{where} has an invalid text as its {key}.")


def _millis(fields: Mapping[str, object], key: str, where: str) -> int:
    value = fields.get(key, 0)
    # Protobuf's JSON may write an int64 as text.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    raise EntityError(f"{where} has an invalid time as its {key}.")


def _pairs(fields: Mapping[str, object], key: str, first: str, second: str, where: str) -> Mapping[str, str]:
    """Read a list of pairs, such as tags; a tag without a value has an empty one."""
    entries = fields.get(key)
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise EntityError(f"{where} has an invalid list as its {key}.")
    pairs = {}
    for entry in entries:
        pair = _mapping(entry, f"{where}: one of its {key}")
        name = _text(pair, first, where)
        if not name:
            raise EntityError(f"{where} has one of its {key} without a name.")
        pairs[name] = _text(pair, second, where)
    return pairs


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; JSON may hold lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"
