"""Registered models and their versions, as immutable values read from MLflow's JSON."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from prinz_enricher.registry.registry_errors import RegistryUnreadable

T = TypeVar("T")
READY = "READY"
# MLflow allows names of 256 characters, a Unity Catalog three parts of 255, and tags values of 100,000.
MAX_NAME_CHARACTERS = 1024
MAX_TEXT_CHARACTERS = 128 * 1024
MAX_ENTITIES = 200_000  # In a listing.
MAX_FAULTS = 1000
ARCHIVED = "Archived"  # The stage of a version that is out of use.


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model, with the version number of each alias; times are in milliseconds since the epoch.

    Setting an alias or a tag does not move `updated_ms`.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model: its number as text, such as `3`, and where the registry says that its files are.

    Its status is `READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`; its stage `None`, `Staging`, `Production` or
    `Archived`, or empty if the registry has no stages. Times are as of a model.
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
    """All entities of one kind, each once, and a message for each that could not be read.

    With several pages entities may be missing: MLflow's page tokens are offsets, so that if an entity is deleted
    between two pages, another one is on neither.
    """

    items: tuple[T, ...]
    faults: tuple[str, ...] = ()
    pages: int = 1


class EntityError(RegistryUnreadable):
    """An entity of the registry is invalid."""


def read_listing(
    pages: Iterable[Iterable[object]], read: Callable[[object], T], key: Callable[[T], object]
) -> Listing[T]:
    """Read entities one by one, so that an invalid one hides no others; of two with one key the later wins.

    Raises RegistryUnreadable if there are more than `MAX_ENTITIES`; of faults no more than `MAX_FAULTS` are listed.
    """
    items: dict[object, T] = {}
    faults: list[str] = []
    count = more = 0
    for page in pages:
        count += 1
        for entry in page:
            try:
                item = read(entry)
            except EntityError as error:
                if len(faults) < MAX_FAULTS:
                    faults.append(str(error))
                else:
                    more += 1
            else:
                items[key(item)] = item
            if len(items) + more > MAX_ENTITIES:
                raise RegistryUnreadable(f"the registry lists more than {MAX_ENTITIES} models, or versions")
    if more:
        faults.append(f"{more} more entities of the registry can't be read.")
    return Listing(tuple(items.values()), tuple(faults), count)


def read_registered_model(entry: object) -> RegisteredModel:
    """Read a registered model; raises EntityError if it is invalid."""
    fields = _Fields(entry, "A registered model")
    name = fields.name()
    fields.what = f'The registered model "{name:.80}"'
    return RegisteredModel(
        name=name,
        description=fields.text("description"),
        tags=fields.pairs("tags", "key", "value"),
        aliases=fields.pairs("aliases", "alias", "version"),
        created_ms=fields.millis("creation_timestamp"),
        updated_ms=fields.millis("last_updated_timestamp"),
    )


def read_model_version(entry: object) -> ModelVersion:
    """Read a version of a registered model; raises EntityError if it is invalid."""
    fields = _Fields(entry, "A model version")
    name, version = fields.name(), fields.get("version")
    # MLflow writes the number as text; others of its kind may write a number.
    number = str(version) if isinstance(version, (str, int)) and not isinstance(version, bool) else ""
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise EntityError(f'A version of the registered model "{name:.80}" has no number.')
    fields.what = f'Version {number} of the registered model "{name:.80}"'
    return ModelVersion(
        name=name,
        version=str(int(number)),
        description=fields.text("description"),
        tags=fields.pairs("tags", "key", "value"),
        status=fields.text("status") or READY,
        status_message=fields.text("status_message"),
        run_id=fields.text("run_id"),
        source=fields.text("source"),
        created_ms=fields.millis("creation_timestamp"),
        updated_ms=fields.millis("last_updated_timestamp"),
        stage=fields.text("current_stage"),
    )


class _Fields:
    """The fields of a JSON object; `what` it is, for messages."""

    def __init__(self, entry: object, what: str) -> None:
        if not isinstance(entry, Mapping):
            raise EntityError(f"{what} is not a JSON object.")
        self.get = entry.get
        self.what = what

    def name(self) -> str:
        if not (name := self.text("name")):
            raise EntityError("An entity of the registry has no name.")
        if len(name) > MAX_NAME_CHARACTERS:
            raise EntityError(f'The name "{name:.80}…" has more than {MAX_NAME_CHARACTERS} characters.')
        return name

    def text(self, key: str) -> str:
        value = self.get(key)
        if value is None:
            return ""
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS:
            raise EntityError(f"{self.what} has more than {MAX_TEXT_CHARACTERS} characters in its {key}.")
        # JSON may hold lone surrogates, which can't be written as UTF-8.
        if isinstance(value, str) and (value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)):
            return value
        raise EntityError(f"{self.what} has an invalid text as its {key}.")

    def millis(self, key: str) -> int:
        value = self.get(key, 0)
        # Protobuf's JSON may write an int64 as text.
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
            return value
        raise EntityError(f"{self.what} has an invalid time as its {key}.")

    def pairs(self, key: str, first: str, second: str) -> Mapping[str, str]:
        """Return a list of pairs, such as tags; a tag without a value has an empty one."""
        entries = self.get(key)
        if entries is None:
            return {}
        if not isinstance(entries, list):
            raise EntityError(f"{self.what} has an invalid list as its {key}.")
        pairs = {}
        for entry in entries:
            pair = _Fields(entry, f"{self.what}: one of its {key}")
            name = pair.text(first)
            if not name:
                raise EntityError(f"{self.what} has one of its {key} without a name.")
            pairs[name] = pair.text(second)
        return pairs
