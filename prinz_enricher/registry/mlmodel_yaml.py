"""MLmodel files as YAML, and the files of requirements beside them, read within bounds.

PyYAML's loader costs far more than a file's bytes: it recurses on the C stack, merge keys double what they merge with
every level, numbers in base 60 take the square of their length, and tags name types. So the events of its parser are
read here, which do none of this. What MLflow writes is read to the same values, but for dates, which stay text.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import yaml

from prinz_enricher.registry.registry_errors import MlmodelUnreadable

if TYPE_CHECKING:
    _Parser = yaml.SafeLoader
else:
    # Ten times faster, if PyYAML was built with it.
    _Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Those that MLflow writes have a few kilobytes, and a hundred keys and values; 10,000 columns have one megabyte.
MAX_BYTES: Final = 4 * 1024 * 1024
TOO_LARGE: Final = f"its MLmodel file is larger than {MAX_BYTES} bytes; log the model with less in it"
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 100
# The parser compares each directive with all before it.
_DIRECTIVE: Final = re.compile(r"(?:^|[\r\n\x85\u2028\u2029\ufeff])%")
_WORDS: Final = {
    form: value
    for words, value in ((("null",), None), (("true", "yes", "on"), True), (("false", "no", "off"), False))
    for word in words
    for form in (word, word.title(), word.upper())
} | {"": None, "~": None}
_NUMBER: Final = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]{0,17})|[0-9]{1,18}(\.)[0-9]{0,18})")


def read_mlmodel(content: bytes) -> Mapping[str, object]:
    """Parse an MLmodel file, a mapping with texts as its keys; raises MlmodelUnreadable if invalid or beyond a bound.

    Values are None, bool, int, float, str, dict and list; an alias is the same object as its anchor.
    """
    if len(content) > MAX_BYTES:
        raise MlmodelUnreadable(TOO_LARGE)
    try:
        text = content.decode()
        if _DIRECTIVE.search(text):
            raise MlmodelUnreadable("its MLmodel file has YAML directives, which MLflow never writes")
        parsed = _read_document(text)
    except (ValueError, yaml.YAMLError) as error:
        raise MlmodelUnreadable("its MLmodel file can't be read as YAML") from error
    if not isinstance(parsed, dict):
        raise MlmodelUnreadable("its MLmodel file is not a mapping")
    return parsed


def _read_document(text: str) -> object:
    documents: list[object] = []
    # What is open, from the outside in, and for each mapping among it the key whose value comes next.
    containers: list[list[object] | dict[str, object]] = []
    keys: list[str | None] = []
    anchors: dict[str, object] = {}
    for number, event in enumerate(yaml.parse(text, Loader=_Parser)):
        if number > MAX_NODES:
            raise MlmodelUnreadable(f"its MLmodel file has more than {MAX_NODES} YAML nodes; log less metadata in it")
        if isinstance(event, yaml.CollectionEndEvent):
            containers.pop()
            keys.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            value = _new_value(event)
            if event.anchor is not None:
                if event.anchor in anchors:
                    raise ValueError("the same anchor twice")
                anchors[event.anchor] = value
        else:
            if event.anchor not in anchors:
                raise ValueError("an alias without its anchor")
            value = anchors[event.anchor]
        if not containers:
            documents.append(value)
        elif isinstance(container := containers[-1], list):
            container.append(value)
        elif (key := keys[-1]) is not None:
            container[key] = value
            keys[-1] = None
        else:
            keys[-1] = _key(event, value)
        if isinstance(event, yaml.CollectionStartEvent) and isinstance(value, list | dict):
            containers.append(value)
            keys.append(None)
            if len(containers) > MAX_DEPTH:
                raise MlmodelUnreadable(f"its MLmodel file is nested deeper than {MAX_DEPTH} levels")
    if len(documents) != 1:
        raise ValueError("not one document")
    return documents[0]


def _new_value(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> object:
    """Return the value of a scalar, or an empty collection for what comes next."""
    if event.tag is not None:
        raise MlmodelUnreadable("its MLmodel file has YAML tags, which MLflow never writes")
    if not isinstance(event, yaml.ScalarEvent):
        return {} if isinstance(event, yaml.MappingStartEvent) else []
    text: str = event.value
    # Of a plain scalar; one in quotes is a text.
    if event.implicit != (True, False):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if (number := _NUMBER.fullmatch(text)) is not None:
        return float(text) if number[1] else int(text)
    return text


def _key(event: yaml.NodeEvent, value: object) -> str:
    key = event.value if isinstance(event, yaml.ScalarEvent) else value
    if not isinstance(key, str):
        raise ValueError("a key that is not a text")  # noqa: TRY004 - a fault of the file
    if key == "<<":
        raise MlmodelUnreadable("its MLmodel file has merge keys, which MLflow never writes")
    return key
