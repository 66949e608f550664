"""The filter of ListModels."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog import CatalogModel, parse_filter
from prinz_enricher.catalog.queries import MAX_FILTER_CHARACTERS
from prinz_enricher.errors import InvalidFilter


def model(name: str = "wine-red", **tags: str) -> CatalogModel:
    """Return a model of this name with these tags."""
    return CatalogModel(name, "", tags, {}, (), 0, 0)


def quote(text: str) -> str:
    """Write a text as the filter wants it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", True),
        ("   ", True),
        ('name = "wine-red"', True),
        ("name='wine-red'", True),
        ('name = "wine"', False),
        ('NAME like "wine%"', True),
        ('name LIKE "%red"', True),
        ('name LIKE "w_ne%r_d"', True),
        ('name LIKE "WINE%"', False),
        ('name LIKE "wine"', False),
        ('name LIKE "%%%"', True),
        (r'name LIKE "wine\-red"', True),
        (r'name LIKE "wine\%"', False),
        ('tags.team = "risk"', True),
        ('tags.team LIKE "r%"', True),
        ('tags.team = "x"', False),
        ('tags.other = ""', False),
        ('tags.other LIKE "%"', False),
        ('tags."odd key" = "1"', True),
        ("tags.`odd key` = '1'", True),
        ("tags.mlflow.source/x = 'y'", True),
        ('name = "wine-red"AND tags.team = "risk"', True),
        ('name = "wine-red" and tags.team = "risk" AND tags.`odd key` = "2"', False),
        ("\n name\t=\n'wine-red' ", True),
    ],
)
def test_filters(text: str, *, passes: bool) -> None:
    """Equality, LIKE, tags of any key, and AND."""
    tags = {"team": "risk", "odd key": "1", "mlflow.source/x": "y"}
    assert parse_filter(text)(model(**tags)) is passes


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("wine", 1),
        ('nam = "x"', 1),
        ('names = "x"', 1),
        ('description = "x"', 1),
        ('name "x"', 6),
        ("name = wine", 8),
        ('name = "wine', 8),
        (r'name = "wine\"', 8),
        ('name = "wine\\', 8),
        ('name != "x"', 6),
        ('name LIKES "x"', 6),
        ('name = "x" OR name = "y"', 12),
        ('name = "x" AND', 15),
        ('name = "x" name = "y"', 12),
        ('tags = "x"', 1),
        ('tags. = "x"', 6),
        ('tags.`a = "x"', 6),
        ('name = "x";', 11),
        ("(name = 'x')", 1),
    ],
)
def test_faults_tell_their_position(text: str, position: int) -> None:
    """What is no filter is refused with the place of the fault, counted from 1."""
    with pytest.raises(InvalidFilter, match=rf"at position {position}\."):
        parse_filter(text)


def test_length_is_bounded() -> None:
    """A filter that is too long is refused unread."""
    with pytest.raises(InvalidFilter, match="longer than"):
        parse_filter(f'name = "{"x" * MAX_FILTER_CHARACTERS}"')


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_can_be_asked_for(name: str, value: str) -> None:
    """Every name, key and value can be written in a filter, and matches itself and nothing else."""
    passes = parse_filter(f"name = {quote(name)} AND tags.{quote(name)} = {quote(value)}")
    assert passes(model(name, **{name: value}))
    assert not passes(model(name, **{name: value + "x"}))
    assert not passes(model(name + "x", **{name: value}))


@given(st.text("ab%_\\", max_size=12), st.text("ab%_", max_size=12))
def test_like_is_what_a_regular_expression_would_say(pattern: str, value: str) -> None:
    """LIKE agrees with the same pattern as a regular expression."""
    expression, at = "", 0
    while at < len(pattern):
        symbol = pattern[at]
        if symbol == "\\":
            at += 1
            expression += re.escape(pattern[at : at + 1])
        else:
            expression += {"%": ".*", "_": "."}.get(symbol, symbol)
        at += 1
    # A backslash at the end of a text would escape the quote that ends it.
    if re.search(r"(?<!\\)(\\\\)*\\$", pattern):
        return
    expected = re.fullmatch(expression, value, re.DOTALL) is not None
    assert parse_filter(f'name LIKE "{pattern}"')(model(value)) is expected


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text does anything else than give a filter or InvalidFilter."""
    with suppress(InvalidFilter):
        assert parse_filter(text)(model()) in {True, False}


def test_like_takes_linear_time() -> None:
    """A pattern made to try everything takes no longer than another."""
    passes = parse_filter(f'name LIKE "{"%a" * 600}b"')
    began = time.perf_counter()
    assert not passes(model("a" * 20_000))
    assert time.perf_counter() - began < 2.0
