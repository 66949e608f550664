"""The values of parameters as JSON, which knows neither bytes nor dates."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import date, datetime

from .faults import FrameError


def encode_value(value: object) -> object:
    """Write a parameter's value as JSON that `decode_value` gives back unchanged.

    Args:
        value: None, bool, int, float, str, bytes, datetime, date, or lists and string-keyed dicts of them.

    Raises:
        TypeError: The value is none of these.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, list | tuple):
        return [encode_value(item) for item in value]
    if isinstance(value, Mapping):
        return {"record": [[str(key), encode_value(item)] for key, item in value.items()]}
    raise TypeError(f"a parameter can't be a {type(value).__name__}")


def decode_value(value: object) -> object:
    """Read what `encode_value` wrote.

    Raises:
        FrameError: It did not write this.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((form, content),) = value.items()
        if form == "record":
            return {key: decode_value(item) for key, item in content}
        return _FORMS[form](content)
    except (ValueError, TypeError, KeyError):
        raise FrameError("a parameter's value is of no known form") from None


_FORMS: dict[str, Callable[[str], object]] = {
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
}
