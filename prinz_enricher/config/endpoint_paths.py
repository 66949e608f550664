"""Where below the base URLs of an endpoint a model is scored.

A convention is the name of a known one, or a URL template such as `{base}/team/{name}/v{version}/invocations`. What the
registry says is put in as one path segment, or not at all: proxies decode `%2F`, and some `%252F`, before they look for
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
    "databricks": ("{base}/model/{name}/{version}/invocations", "{base}/serving-endpoints/{endpoint}/invocations"),
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
    """What the registry and the settings say of a model, and its serving endpoint at Databricks; empty if unknown."""

    name: str
    version: str = ""
    alias: str = ""
    endpoint: str = ""


def paths(conventions: Iterable[str], model: ModelAddress) -> tuple[str, ...]:
    """Return the paths below the base URL at which a model may be scored, in the order in which they are to be tried.

    They are percent-encoded, begin with a slash, and differ. A convention that needs what is not known is left out.
    Raises NoPath if a part of the address can't stand in a path, or none of the conventions goes with what is known.
    """
    templates = [template for convention in conventions for template in CONVENTIONS.get(convention, (convention,))]
    known = {name: segment(name, text) for name in FIELDS if (text := getattr(model, name))}
    found = {
        "".join(literal + (known[name] if name else "") for literal, name in _parts(template)): None
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
    """Return a text as one segment of a path, percent-encoded; raises NoPath if it can't be one, or leads elsewhere."""
    if not text:
        raise NoPath(f"the {field} is empty")
    if len(text) > MAX_SEGMENT_CHARACTERS:
        raise NoPath(f"the {field} is longer than {MAX_SEGMENT_CHARACTERS} characters")
    if leads_elsewhere(text):
        raise NoPath(f'the {field} has a piece "." or "..", or a control character, which no path may have')
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise NoPath(f"the {field} is not text") from None


def template_fault(template: str) -> str:
    """Return what is wrong with a URL template; empty for nothing."""
    try:
        parts = list(_parts(template))
    except ValueError as error:
        return str(error)
    literals = "".join(literal for literal, _ in parts)
    if not _LITERAL.fullmatch(literals):
        return "it has a character that no path of a URL has; percent-encode it"
    # Each field is at least one character, which is not a dot alone.
    sample = "".join(literal + ("x" if name else "") for literal, name in parts)
    if not sample.startswith("/") or "//" in sample or leads_elsewhere(sample):
        return 'it must begin with "{base}/", and have neither empty pieces nor "." or ".." as one'
    return ""


def leads_elsewhere(text: str) -> bool:
    r"""Whether a text has a control character, or a piece that means this folder or the one above.

    Such as `..`, `a/../b`, `..;x` (for Tomcat) and `a\..`, also when it is percent-encoded, however often.
    """
    while (decoded := unquote(text)) != text:
        text = decoded
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        return True
    pieces = re.split(r"[/\\]", text)
    return any(piece.partition(";")[0].strip() in (".", "..") for piece in pieces)


def _parts(template: str) -> Iterable[tuple[str, str]]:
    """Yield each literal text of a template with the field after it; empty for none."""
    for literal, name, form, conversion in Formatter().parse(template.removeprefix(_BASE)):
        if name is not None and (name not in FIELDS or form or conversion):
            wanted = ", ".join(f"{{{known}}}" for known in FIELDS)
            raise ValueError(f"it may have {{base}} at its beginning, and {wanted}, and nothing else in braces")
        yield literal, name or ""


def _fields(template: str) -> set[str]:
    return {name for _, name in _parts(template) if name}
