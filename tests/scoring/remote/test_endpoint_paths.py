"""Where a model is scored: paths from names, whatever the names are."""

from urllib.parse import unquote, urlsplit

import httpcore
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prinz_enricher.config.endpoint_paths import (
    ModelAddress,
    NoPath,
    leads_elsewhere,
    paths,
    segment,
    template_fault,
)

WINE = ModelAddress("wine", "3", "champion", "wine-serving")
BASES = ("http://models.example.com", "https://models.example.com:8443/team/a")
TEMPLATES = {
    "prinz": (2, 3),
    "databricks": (4, 3),
    "mlflow": (1,),
    "{base}/team/{name}/v{version}:{alias}/{endpoint}": (4,),
    "/a-{name}/score": (2,),
}

# What names are made of, and what servers, proxies and attackers make of them.
PIECES = st.sampled_from(
    (
        *("..", ".", "/", "\\", "%2e", "%2F", "%252e", "%", "?", "#", ";", ":", "@", "//host", " "),
        "é",
        "模型",
        "a",
        "\0",
    )
)
NAMES = st.one_of(st.text(min_size=1, max_size=30), st.lists(PIECES, min_size=1, max_size=6).map("".join))


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        (("prinz",), ("/wine/invocations", "/model/wine/invocations")),
        (("databricks",), ("/model/wine/3/invocations", "/serving-endpoints/wine-serving/invocations")),
        (("mlflow",), ("/invocations",)),
        (("{base}/x/{name}/{alias}",), ("/x/wine/champion",)),
        (("/x/{name}-{version}",), ("/x/wine-3",)),
        (("mlflow", "prinz", "mlflow"), ("/invocations", "/wine/invocations", "/model/wine/invocations")),
    ],
)
def test_known_conventions(convention: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Each convention gives its paths in order, each path once."""
    assert paths(convention, WINE) == expected


def test_what_is_not_known() -> None:
    """A path that needs what is not known is left out; without any path it is said what is missing."""
    assert paths(("databricks",), ModelAddress("wine", endpoint="e")) == ("/serving-endpoints/e/invocations",)
    with pytest.raises(NoPath, match="without endpoint and version"):
        paths(("databricks",), ModelAddress("wine"))
    with pytest.raises(NoPath, match="without name"):
        paths(("prinz",), ModelAddress(""))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("a?b#c", "a%3Fb%23c"),
        ("a b", "a%20b"),
        ("żółw", "%C5%BC%C3%B3%C5%82w"),
        ("a..b", "a..b"),
        ("..a", "..a"),
        ("...", "..."),
        ("catalog.schema.model", "catalog.schema.model"),
        ("{name}", "%7Bname%7D"),
        ("//host", "%2F%2Fhost"),
    ],
)
def test_names_are_one_segment(name: str, expected: str) -> None:
    """Whatever is in a name, it is one segment of the path."""
    assert paths(("/{name}/invocations",), ModelAddress(name)) == (f"/{expected}/invocations",)


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "../x", "a/..", "a/../b", "a/./b", "a\\..\\b", "%2e%2e", "%2E%2e/x", "%252e%252e", "..%2fx"),
        *(
            "..;x",
            "..%3bx",
            "a/..;jsessionid=1/b",
            ".. ",
            "a\nb",
            "a\0",
            "a%00",
            "%0d%0aHost: x",
            "\x7f",
            "\ud800",
            "x" * 1025,
        ),
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    """A name that a server or proxy may take for another place is refused, however it is written."""
    with pytest.raises(NoPath, match="the name "):
        paths(("prinz",), ModelAddress(name))


def test_parts_that_lead_elsewhere_together() -> None:
    """Parts that are harmless alone are refused where they make such a piece together."""
    with pytest.raises(NoPath, match="together"):
        paths(("/..{name}/x",), ModelAddress(";a"))


@given(NAMES, NAMES, st.sampled_from(list(TEMPLATES)), st.sampled_from(BASES))
def test_no_name_leaves_its_place(name: str, version: str, convention: str, base: str) -> None:
    """Every URL has the base's origin and path, and as many segments as the convention has; none of them climbs."""
    try:
        found = paths((convention,), ModelAddress(name, version, "champion", name))
    except NoPath:
        assume(False)
    origin = urlsplit(base)
    for path, segments in zip(found, TEMPLATES[convention], strict=True):
        parts = urlsplit(base + path)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (origin.scheme, origin.netloc, "", "")
        assert parts.path == origin.path + path
        assert path.isascii()
        assert path.count("/") == segments
        assert httpcore.URL(base + path).target == parts.path.encode()
        pieces = unquote(unquote(unquote(path))).replace("\\", "/").split("/")
        assert not {".", ".."} & {piece.partition(";")[0] for piece in pieces}


@given(NAMES)
def test_segments_come_back(name: str) -> None:
    """A server that decodes a segment has the name again."""
    try:
        encoded = segment("name", name)
    except NoPath:
        assert leads_elsewhere(name) or any(0xD800 <= ord(character) < 0xE000 for character in name)
    else:
        assert unquote(encoded) == name


@pytest.mark.parametrize("template", ["{base}/{name}", "/x/{version}-{alias}.json", "{base}/a%20b/{endpoint}", "/"])
def test_templates(template: str) -> None:
    """What begins with the base and has known fields is a template."""
    assert template_fault(template) == ""


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "must begin"),
        ("{base}", "must begin"),
        ("{base}x/{name}", "must begin"),
        ("{base}@host/{name}", "must begin"),
        ("//host/{name}", "must begin"),
        ("/{name}//x", "must begin"),
        ("/../{name}", "must begin"),
        ("/%2e%2E/{name}", "must begin"),
        ("https://host/{name}", "must begin"),
        ("/{name}/{base}", "nothing else in braces"),
        ("/{stage}", "nothing else in braces"),
        ("/{name!r}", "nothing else in braces"),
        ("/{name:>10}", "nothing else in braces"),
        ("/{name.__class__}", "nothing else in braces"),
        ("/{}", "nothing else in braces"),
        ("/{name", "expected '}'"),
        ("/{{name}}", "a character"),
        ("/{name}?x=1", "a character"),
        ("/{name}#x", "a character"),
        ("/a b/{name}", "a character"),
        ("/é/{name}", "a character"),
        ("/%zz/{name}", "a character"),
    ],
)
def test_no_templates(template: str, said: str) -> None:
    """What would lead elsewhere, or has other fields, is none."""
    assert said in template_fault(template)
