"""Where below a server's base URL a model is scored: pure functions from a model's name to paths.

A convention is the name of a known one, or a URL template such as `{base}/team/{name}/v{version}/invocations`. What the
registry says goes in as one path segment, or not at all: proxies decode `%2F`, and some `%252F`, before they look for
`..`, so that a name with such a piece is refused, however it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import Formatter
from urllib.parse import quote, unquote

CONVENTIONS = {
    "prinz": ("{base}/{name}/invocations", "{base}/model/{name}/invocations"),
    "databricks": (
        "{base}/model/{name}/{version}/invocations",
        "{base}/serving-endpoints/{endpoint}/invocations",
    ),
    "mlflow": ("{base}/invocations",),
}
"""The known conventions, each with its templates in the order in which they are tried."""

FIELDS = ("name", "version", "alias", "endpoint")
"""What a template may have in braces, besides `{base}` at its beginning."""

MAX_SEGMENT_CHARACTERS = 1024

_BASE = "{base}"
# The characters of a path (RFC 3986, section 3.3), and the slash.
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


class NoPath(ValueError):
    """There is no path for this model; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """What the registry and the settings say of a model; what is empty is not known.

    Attributes:
        name: Its name in the registry.
        version: Its version.
        alias: The alias that is meant.
        endpoint: The name of its serving endpoint at Databricks.
    """

    name: str
    version: str = ""
    alias: str = ""
    endpoint: str = ""


def paths(conventions: Iterable[str], model: ModelAddress) -> tuple[str, ...]:
    """Return the paths below the base URL at which a model may be scored, in the order in which they are to be tried.

    Args:
        conventions: Names of known conventions, or templates; one that needs what is not known is left out.
        model: Which model.

    Returns:
        Percent-encoded paths that begin with a slash, each once.

    Raises:
        NoPath: A part of the address can't stand in a path, or none of the conventions goes with what is known.
    """
    templates = [template for convention in conventions for template in CONVENTIONS.get(convention, (convention,))]
    known = {field: segment(field, text) for field in FIELDS if (text := getattr(model, field))}
    found = {
        "".join(literal + (known[field] if field else "") for literal, field in _parts(template)): None
        for template in templates
        if _fields(template) <= known.keys()
    }
    if not found:
        missing = sorted(set().union(*map(_fields, templates)) - known.keys()) if templates else []
        raise NoPath(f"no convention goes with a model without {' and '.join(missing)}" if missing else "no convention")
    if any(leads_elsewhere(path) for path in found):
        raise NoPath('a convention and the parts of the address together make a piece "." or ".."')
    return tuple(found)


def segment(field: str, text: str) -> str:
    """Return a text as one segment of a path, percent-encoded.

    Args:
        field: What it is, for the message.
        text: Such as a model's name.

    Raises:
        NoPath: It is empty or too long, has control characters, or would lead elsewhere once it is decoded.
    """
    if not text:
        raise NoPath(f"the {field} is empty")
    if len(text) > MAX_SEGMENT_CHARACTERS:
        raise NoPath(f"the {field} is longer than {MAX_SEGMENT_CHARACTERS} characters")
    if leads_elsewhere(text):
        raise NoPath(f'the {field} has a piece "." or "..", or a control character, which no path may have')
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise NoPath(f"the {field} is no text") from None


def template_fault(template: str) -> str:
    """Return what is wrong with a URL template; empty for nothing."""
    try:
        parts = list(_parts(template))
    except ValueError as error:
        return str(error)
    literals = "".join(literal for literal, _ in parts)
    if not _LITERAL.fullmatch(literals):
        return "it has a character that no path of a URL has; percent-encode it"
    # Each field is at least one character, which is no dot alone.
    sample = "".join(literal + ("x" if field else "") for literal, field in parts)
    if not sample.startswith("/") or "//" in sample or leads_elsewhere(sample):
        return 'it must begin with "{base}/", and have neither empty pieces nor "." or ".." as one'
    return ""


def leads_elsewhere(text: str) -> bool:
    r"""Tell whether a text has a control character, or a piece that means this folder or the one above.

    Such as `..`, `a/../b`, `..;x` (for Tomcat) and `a\..`, also when it is percent-encoded, however often.
    """
    while (decoded := unquote(text)) != text:
        text = decoded
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        return True
    pieces = re.split(r"[/\\]", text)
    return any(piece.partition(";")[0].strip() in (".", "..") for piece in pieces)


def _parts(template: str) -> Iterable[tuple[str, str]]:
    """Yield each literal text of a template with the field after it; empty for none.

    Raises:
        ValueError: It is no template.
    """
    for literal, field, form, conversion in Formatter().parse(template.removeprefix(_BASE)):
        if field is not None and (field not in FIELDS or form or conversion):
            wanted = ", ".join(f"{{{known}}}" for known in FIELDS)
            raise ValueError(f"it may have {{base}} at its beginning, and {wanted}, and nothing else in braces")
        yield literal, field or ""


def _fields(template: str) -> set[str]:
    return {field for _, field in _parts(template) if field}
