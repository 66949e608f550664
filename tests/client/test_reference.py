"""`NAME[@alias|/version]`."""

import pytest

from prinz_enricher.client import ModelReference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("wine", ModelReference("wine")),
        ("wine/3", ModelReference("wine", version="3")),
        ("wine@champion", ModelReference("wine", alias="champion")),
        ("a@b@champion", ModelReference("a@b", alias="champion")),
        ("a@b/3", ModelReference("a@b", version="3")),
        ("main.cellar.wine", ModelReference("main.cellar.wine")),
    ],
)
def test_forms(text: str, reference: ModelReference) -> None:
    """A reference is read in each of its forms."""
    assert ModelReference.parse(text) == reference


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("wine", (ModelReference("wine"),)),
        ("a@b/3", (ModelReference("a@b", version="3"),)),
        ("a@b", (ModelReference("a@b"), ModelReference("a", alias="b"))),
        ("a@b@champion", (ModelReference("a@b@champion"), ModelReference("a@b", alias="champion"))),
    ],
)
def test_what_a_text_may_name(text: str, candidates: tuple[ModelReference, ...]) -> None:
    """A model of the whole name goes before an alias."""
    assert ModelReference.candidates(text) == candidates


@pytest.mark.parametrize("text", ["", "/3", "wine/", "@champion", "wine@"])
def test_empty_parts(text: str) -> None:
    """A reference with an empty part is refused."""
    with pytest.raises(ValueError, match="invalid model"):
        ModelReference.parse(text)
