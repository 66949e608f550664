"""Reads MLmodel files, which are YAML that a stranger may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import yaml

from prinz_enricher.registry.errors import MlmodelUnreadable

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    # Ten times faster, where PyYAML was built with it.
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 10 * 1024 * 1024
"""How long an MLmodel file may be; those that MLflow writes are a few kilobytes."""

MAX_DEPTH = 100
"""How deep it may be nested."""


def read_mlmodel(content: bytes) -> Mapping[str, object]:
    """Parse an MLmodel file.

    Args:
        content: The file, in UTF-8.

    Returns:
        Its top-level entries.

    Raises:
        MlmodelUnreadable: It is too large, too deep, no YAML, or no mapping of names.
    """
    if len(content) > MAX_BYTES:
        raise MlmodelUnreadable(f"its MLmodel file is larger than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
        _refuse_traps(text)
        parsed = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a safe loader
    except MlmodelUnreadable:
        raise
    # PyYAML's constructors let other errors through, such as ValueError for a date that does not exist.
    except Exception as error:
        raise MlmodelUnreadable("its MLmodel file can't be read as YAML") from error
    if not isinstance(parsed, dict):
        raise MlmodelUnreadable("its MLmodel file is no mapping")
    return {str(key): value for key, value in parsed.items()}


def _refuse_traps(text: str) -> None:
    """Refuse what would cost more than its length.

    libyaml's loader recurses on the C stack, and ends the process where a file is nested deep enough; a merge key
    (`<<`) copies what it merges, which doubles with every level. The events are read without either.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise MlmodelUnreadable(f"its MLmodel file is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise MlmodelUnreadable("its MLmodel file has merge keys, which MLflow never writes")
