"""The filter of ListModels: `name = "wine"`, `name LIKE "wine%"`, `tags.team = "risk"`, joined by AND.

    filter     = [condition {AND condition}]
    condition  = field ("=" | LIKE) text
    field      = "name" | "tags." key
    key        = letters, digits and _ . - / : or a text, or anything but a backtick between backticks
    text       = between " or '; a backslash takes the next character as it is

In a LIKE, `%` stands for any characters and `_` for one; a backslash before them makes them plain. Keywords are read in
any case; texts are compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from prinz_enricher.catalog.snapshot import CatalogModel
from prinz_enricher.errors import InvalidFilter

MAX_CHARACTERS = 2000
"""How long a filter may be."""

Predicate = Callable[[CatalogModel], bool]

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z]+")
_PLAIN_KEY = re.compile(r"[\w.\-/:]+")


def parse_filter(text: str) -> Predicate:
    """Read a filter.

    Args:
        text: By the grammar of this module; an empty one lets every model pass.

    Returns:
        A function that tells whether a model passes.

    Raises:
        InvalidFilter: It can't be read; the message tells the position of the fault, counted from 1.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidFilter(f"is longer than {MAX_CHARACTERS} characters")
    conditions = _Parser(text).conditions()
    return lambda model: all(condition(model) for condition in conditions)


@dataclass(frozen=True, slots=True)
class _Text:
    """A quoted text.

    Attributes:
        characters: Without the quotes and escapes.
        escaped: Which of them had a backslash.
    """

    characters: str
    escaped: frozenset[int]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def conditions(self) -> list[Predicate]:
        conditions: list[Predicate] = []
        self._skip_space()
        if self._at == len(self._text):
            return conditions
        while True:
            conditions.append(self._condition())
            if self._at == len(self._text):
                return conditions
            self._keyword("AND")

    def _condition(self) -> Predicate:
        value_of = self._field()
        if self._take("="):
            wanted = self._quoted().characters
            return lambda model: value_of(model) == wanted
        self._keyword("LIKE", 'expected "=" or LIKE')
        pattern = LikePattern(*_compile(self._quoted()))
        return lambda model: (value := value_of(model)) is not None and pattern.matches(value)

    def _field(self) -> Callable[[CatalogModel], str | None]:
        start = self._at
        word = _WORD.match(self._text, self._at)
        field = word.group().lower() if word else ""
        if word is not None and field == "name":
            self._at = word.end()
            self._skip_space()
            return lambda model: model.name
        if word is not None and field == "tags" and self._text.startswith(".", word.end()):
            self._at = word.end() + 1
            key = self._key()
            return lambda model: model.tags.get(key)
        self._at = start
        raise self._fault('expected "name" or "tags.<key>"')

    def _key(self) -> str:
        if self._text.startswith(('"', "'"), self._at):
            return self._quoted().characters
        if self._text.startswith("`", self._at):
            end = self._text.find("`", self._at + 1)
            if end < 0:
                raise self._fault("the backtick is not closed")
            key, self._at = self._text[self._at + 1 : end], end + 1
        else:
            plain = _PLAIN_KEY.match(self._text, self._at)
            if plain is None:
                raise self._fault("expected the key of a tag")
            key, self._at = plain.group(), plain.end()
        self._skip_space()
        return key

    def _quoted(self) -> _Text:
        start = self._at
        quote = self._text[start : start + 1]
        if quote not in ('"', "'"):
            raise self._fault("expected a text in quotes")
        characters: list[str] = []
        escaped: set[int] = set()
        at = start + 1
        while at < len(self._text) and self._text[at] != quote:
            if self._text[at] == "\\":
                at += 1
                escaped.add(len(characters))
            characters.append(self._text[at : at + 1])
            at += 1
        if at >= len(self._text):
            raise self._fault("the quote is not closed")
        self._at = at + 1
        self._skip_space()
        return _Text("".join(characters), frozenset(escaped))

    def _keyword(self, keyword: str, expected: str = "expected AND") -> None:
        word = _WORD.match(self._text, self._at)
        if word is None or word.group().upper() != keyword:
            raise self._fault(expected)
        self._at = word.end()
        self._skip_space()

    def _take(self, symbol: str) -> bool:
        if not self._text.startswith(symbol, self._at):
            return False
        self._at += len(symbol)
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _fault(self, what: str) -> InvalidFilter:
        return InvalidFilter(f"{what} at position {self._at + 1}")


def _compile(text: _Text) -> tuple[list[str | None], set[int]]:
    """Split a LIKE text into its characters, None for `_`, and the places where any characters may stand."""
    symbols: list[str | None] = []
    gaps: set[int] = set()
    for index, character in enumerate(text.characters):
        if character == "%" and index not in text.escaped:
            gaps.add(len(symbols))
        else:
            symbols.append(None if character == "_" and index not in text.escaped else character)
    return symbols, gaps


class LikePattern:
    """A LIKE pattern, matched in a time that is linear in the value, whatever the pattern.

    All places of the pattern that the value may have come to are kept as the bits of one number, and moved together
    by each character; nothing is ever tried again.
    """

    def __init__(self, symbols: list[str | None], gaps: set[int]) -> None:
        """Prepare the pattern.

        Args:
            symbols: Its characters; None stands for any one.
            gaps: Places, counted in symbols before them, where any characters may stand.
        """
        self._any = sum(1 << place for place, symbol in enumerate(symbols) if symbol is None)
        self._gaps = sum(1 << place for place in gaps)
        self._end = 1 << len(symbols)
        self._places: dict[str, int] = {}
        for place, symbol in enumerate(symbols):
            if symbol is not None:
                self._places[symbol] = self._places.get(symbol, 0) | 1 << place

    def matches(self, value: str) -> bool:
        """Tell whether the whole value matches."""
        reached = 1
        for character in value:
            moved = (reached & (self._places.get(character, 0) | self._any)) << 1
            reached = moved | (reached & self._gaps)
            if not reached:
                return False
        return bool(reached & self._end)
