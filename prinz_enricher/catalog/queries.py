"""Finding in a snapshot: the version that a caller means, and the pages and the filter of ListModels."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prinz_enricher.catalog.serving_rules import ALIAS_PREFIX, DEFAULT_POLICY, LATEST, STAGE_PREFIX, VERSION_PREFIX
from prinz_enricher.catalog.snapshot import NOT_READ, CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.errors import (
    AliasNotFound,
    InvalidFilter,
    InvalidPageToken,
    InvalidRequest,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    VersionNotFound,
)

RETRY_SECONDS = 2.0  # After how long the signature of a version that was not read yet should be there.
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_FILTER_CHARACTERS = 2000
_KEY = secrets.token_bytes(32)  # Signs the tokens of this process.
_CHECKSUM_BYTES = 16
_SEPARATOR = "\n"
_MAX_TOKEN_CHARACTERS = 64 * 1024


def resolve(
    snapshot: Snapshot,
    name: str,
    version: str | None = None,
    alias: str | None = None,
    policy: Sequence[str] = DEFAULT_POLICY,
) -> CatalogVersion:
    """Return the version that a caller means, by its number as it is listed, else by an alias; only a READY one.

    Where neither is given the model's own policy, or else `policy`, is tried in turn. An alias that exists decides,
    even where its version is not READY: no other version than its owner chose is used silently. Raises ModelNotFound,
    AliasNotFound, or VersionNotFound if there is no such version or it is not READY.
    """
    model = snapshot.models.get(name)
    if model is None:
        raise ModelNotFound(name)
    if version is None and alias is None:
        number = _default_number(model, policy)
    elif version is None:
        number = model.aliases.get(alias or "")
        if number is None:
            raise AliasNotFound(name, alias or "")
    else:
        number = version
    found = model.by_number.get(number or "")
    if found is None or not found.ready:
        raise VersionNotFound(name, number or "")
    return found


def default_version(model: CatalogModel, policy: Sequence[str] = DEFAULT_POLICY) -> CatalogVersion | None:
    """Return the version that is meant where a caller names none; None where there is none that is READY."""
    found = model.by_number.get(_default_number(model, policy) or "")
    return found if found is not None and found.ready else None


def scorable(version: CatalogVersion) -> CatalogVersion:
    """Return the version if it can be scored; one without any signature can.

    Raises ModelLoading if its signature was not read yet, or can't be for a reason that may pass, and ModelLoadFailed
    if it can't be read.
    """
    if version.signature is None and version.pending:
        why = "" if version.fault == NOT_READ.fault else f"it {version.fault}"
        raise ModelLoading(version.name, version.version, RETRY_SECONDS, why)
    if version.signature is None:
        raise ModelLoadFailed(version.name, version.version, f"it {version.fault or 'was not read yet'}.")
    return version


def _default_number(model: CatalogModel, policy: Sequence[str]) -> str | None:
    for choice in model.policy or policy:
        if choice == LATEST or choice.startswith(STAGE_PREFIX):
            newest = model.latest_ready if choice == LATEST else model.latest_in(choice.removeprefix(STAGE_PREFIX))
            if newest is not None:
                return newest.version
        elif choice.startswith(VERSION_PREFIX):
            number = str(int(choice.removeprefix(VERSION_PREFIX)))
            if number in model.by_number:
                return number
        elif (pointed := model.aliases.get(choice.removeprefix(ALIAS_PREFIX))) is not None:
            return pointed
    return None


class Page(NamedTuple):
    """One page: models sorted by name, the token of the next page (empty on the last), and the snapshot it is of."""

    models: list[CatalogModel]
    next_token: str
    snapshot: Snapshot


def paginate(
    snapshot: Snapshot,
    page_size: int = 0,
    page_token: str = "",
    filter_text: str = "",
    view: str = "",
    *,
    caller: str = "",
    find: Callable[[str], Snapshot | None] = lambda _: None,
    fits: Callable[[CatalogModel], bool] = lambda _: True,
) -> Page:
    """Return one page of the models; all pages are of the snapshot that is current at the first one.

    A page has `page_size` models at most: 100 if that is 0, and never more than 1000. It ends before a model that does
    not fit, unless that is its first; `fits` is called for one after the other. `find` returns an earlier
    snapshot by its revision, or None where it is not known any more. Raises InvalidRequest if the page size is
    negative, InvalidFilter if the filter can't be read, and InvalidPageToken if the token is not of this process, of
    another caller, of a request with another filter or view, or of a snapshot that is not known any more.
    """
    if page_size < 0:
        raise InvalidRequest("page_size", "must not be negative")
    limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    passes = parse_filter(filter_text)
    # With their lengths, so that no text can run over into the other.
    parts = [part.encode("utf-8", "surrogatepass") for part in (filter_text, view, caller)]
    request = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    start = 0
    if page_token:
        revision, last = _read_page_token(page_token, request)
        began = snapshot if revision == snapshot.revision else find(revision)
        if began is None:
            raise InvalidPageToken("is of a list that changed too long ago; restart the listing without it")
        snapshot = began
        start = bisect_right(snapshot.names, last)
    page: list[CatalogModel] = []
    for name in snapshot.names[start:]:
        if passes(model := snapshot.models[name]):
            if len(page) == limit or not (fits(model) or not page):
                break
            page.append(model)
    else:
        return Page(page, "", snapshot)
    # A revision has no line break in it, a name may.
    place = f"{snapshot.revision}{_SEPARATOR}{page[-1].name}".encode()
    token = base64.urlsafe_b64encode(_checksum(place, request) + place).rstrip(b"=").decode()
    return Page(page, token, snapshot)


def _checksum(place: bytes, request: bytes) -> bytes:
    return hmac.digest(_KEY, request + place, "sha256")[:_CHECKSUM_BYTES]


def _read_page_token(token: str, request: bytes) -> tuple[str, str]:
    """Return the revision and the last name that a token carries."""
    if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
        raise InvalidPageToken
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken from None
    checksum, place = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(place, request)):
        raise InvalidPageToken
    revision, _, name = place.decode().partition(_SEPARATOR)
    return revision, name


Predicate = Callable[[CatalogModel], bool]

_NAME = re.compile(r"(?ai:name)(?![A-Za-z])\s*")
_TAGS = re.compile(r"(?ai:tags)\.")
_KEY_IN_BACKTICKS = re.compile(r"`([^`]*)`\s*")
_PLAIN_KEY = re.compile(r"([\w.\-/:]+)\s*")
_QUOTED = re.compile(r"""(?s:"((?:[^"\\]|\\.)*+)"|'((?:[^'\\]|\\.)*+)')\s*""")
_EQUALS = re.compile(r"=\s*")
_LIKE = re.compile(r"(?ai:LIKE)(?![A-Za-z])\s*")
_AND = re.compile(r"(?ai:AND)(?![A-Za-z])\s*")
_SPACE = re.compile(r"\s*")
_CHARACTER = re.compile(r"\\?(.)", re.DOTALL)


def parse_filter(text: str) -> Predicate:
    """Return whether a model passes a filter, as a function; an empty filter lets every model pass.

    For example `name = "wine"`, `name LIKE "wine%"` or `tags.team = "risk"`, joined by AND:

        filter     = [condition {AND condition}]
        condition  = field ("=" | LIKE) text
        field      = "name" | "tags." key
        key        = letters, digits and _ . - / : or a text, or anything but a backtick between backticks
        text       = between " or '; a backslash makes the next character plain

    In a LIKE, `%` stands for any characters and `_` for one; a backslash before them makes them plain. Keywords are
    read in any case; texts are compared exactly. Raises InvalidFilter with the position of the fault, counted from 1.
    """
    if len(text) > MAX_FILTER_CHARACTERS:
        raise InvalidFilter(f"is longer than {MAX_FILTER_CHARACTERS} characters")
    parser = _FilterParser(text)
    conditions = [] if parser.at_end else [parser.condition()]
    while not parser.at_end:
        parser.expect(_AND, "expected AND")
        conditions.append(parser.condition())
    return lambda model: all(condition(model) for condition in conditions)


class _FilterParser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._accept(_SPACE)

    @property
    def at_end(self) -> bool:
        return self._at == len(self._text)

    def condition(self) -> Predicate:
        value_of = self._field()
        if self._accept(_EQUALS):
            wanted = _CHARACTER.sub(r"\1", self._quoted())
            return lambda model: value_of(model) == wanted
        self.expect(_LIKE, 'expected "=" or LIKE')
        matches = _compile_like(self._quoted()).fullmatch
        return lambda model: (value := value_of(model)) is not None and matches(value) is not None

    def expect(self, pattern: re.Pattern[str], fault: str) -> re.Match[str]:
        found = self._accept(pattern)
        if found is None:
            raise InvalidFilter(f"{fault} at position {self._at + 1}")
        return found

    def _accept(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _field(self) -> Callable[[CatalogModel], str | None]:
        if self._accept(_NAME):
            return lambda model: model.name
        self.expect(_TAGS, 'expected "name" or "tags.<key>"')
        if self._text.startswith(('"', "'"), self._at):
            key = _CHARACTER.sub(r"\1", self._quoted())
        elif self._text.startswith("`", self._at):
            key = self.expect(_KEY_IN_BACKTICKS, "the backtick is not closed")[1]
        else:
            key = self.expect(_PLAIN_KEY, "expected the key of a tag")[1]
        return lambda model: model.tags.get(key)

    def _quoted(self) -> str:
        """Return a text without its quotes, with its backslashes."""
        opened = self._text.startswith(('"', "'"), self._at)
        found = self.expect(_QUOTED, "the quote is not closed" if opened else "expected a text in quotes")
        return found[1] if found[1] is not None else found[2]


def _compile_like(text: str) -> re.Pattern[str]:
    """Return a LIKE as a regular expression whose time is bounded by the length of the value times its own.

    As in `fnmatch.translate`, what stands between two `%` is matched at the first place where it fits, and never tried
    again (`(?>…)`): a later place would only leave less of the value for the rest.
    """
    parts = [""]
    for found in _CHARACTER.finditer(text):
        if found[0] == "%":
            parts.append("")
        else:
            parts[-1] += "." if found[0] == "_" else re.escape(found[1])
    first, *between = parts
    last = f".*{between.pop()}" if between else ""
    return re.compile(first + "".join(f"(?>.*?{part})" for part in between) + last, re.DOTALL)
