"""Pages of ListModels."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog import CatalogModel, Snapshot, paginate, queries
from prinz_enricher.catalog.publisher import MAX_KEPT, RecentSnapshots
from prinz_enricher.errors import InvalidFilter, InvalidPageToken, InvalidRequest

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True)


def make_snapshot(names: list[str], revision: str = "") -> Snapshot:
    """Return a snapshot of models with these names."""
    return Snapshot(revision, {name: CatalogModel(name, "", {}, {}, (), 0, 0) for name in sorted(names)})


HUNDREDS = make_snapshot([f"model-{number:04}" for number in range(1500)])


def read_all(snapshot: Snapshot, page_size: int, filter_text: str = "") -> list[list[str]]:
    """Return the names on each page."""
    pages, token = [], ""
    while True:
        models, token, _ = paginate(snapshot, page_size, token, filter_text)
        pages.append([model.name for model in models])
        if not token:
            return pages


@given(NAMES, st.integers(1, 7))
def test_pages_together_are_the_catalog(names: list[str], page_size: int) -> None:
    """Every model is on one page, in the order of the names, and no page is larger than asked."""
    pages = read_all(make_snapshot(names), page_size)
    assert [name for page in pages for name in page] == sorted(names)
    assert all(len(page) == page_size for page in pages[:-1])
    assert len(pages) == max(1, -(-len(names) // page_size))


@pytest.mark.parametrize(("asked", "given"), [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(asked: int, given: int) -> None:
    """No size means 100, and more than 1000 means 1000."""
    assert len(paginate(HUNDREDS, asked)[0]) == given


@given(NAMES, st.integers(1, 7), st.sets(st.integers(0, 20)))
def test_a_page_ends_before_what_does_not_fit(names: list[str], page_size: int, large: set[int]) -> None:
    """A page ends before a model that does not fit, which begins the next one; all together are the catalog."""
    snapshot, found, token = make_snapshot(names), list[list[str]](), ""
    misfits = {name for number, name in enumerate(snapshot.names) if number in large}
    while not found or token:
        asked: list[str] = []

        def fits(model: CatalogModel, asked: list[str] = asked) -> bool:
            asked.append(model.name)
            return model.name not in misfits

        models, token, _ = paginate(snapshot, page_size, token, fits=fits)
        found.append([model.name for model in models])
        assert asked[: len(models)] == found[-1]
        assert not misfits.intersection(found[-1][1:])
    assert [name for page in found for name in page] == sorted(names)


def test_negative_page_size() -> None:
    """A negative size is refused."""
    with pytest.raises(InvalidRequest) as refused:
        paginate(HUNDREDS, -1)
    assert refused.value.violations[0].field == "page_size"


def test_filtered_pages() -> None:
    """Pages hold what passes the filter, and the last one tells that it is the last."""
    assert read_all(HUNDREDS, 6, 'name LIKE "model-000%"') == [
        [f"model-{number:04}" for number in range(6)],
        [f"model-{number:04}" for number in range(6, 10)],
    ]
    with pytest.raises(InvalidFilter):
        paginate(HUNDREDS, filter_text="name")


def test_size_may_change_between_pages() -> None:
    """The next page may be of another size."""
    token = paginate(HUNDREDS, 10).next_token
    assert [model.name for model in paginate(HUNDREDS, 2, token)[0]] == ["model-0010", "model-0011"]


def test_catalog_may_change_between_pages() -> None:
    """The pages are of the snapshot that the first one was of, while that is known; then they begin anew."""
    first, second = make_snapshot(["b", "d", "f", "h"], "1"), make_snapshot(["a", "b", "e", "f", "h"], "2")
    token = paginate(first, 2).next_token
    page = paginate(second, 2, token, find={"1": first}.get)
    assert [model.name for model in page.models] == ["f", "h"]
    assert page.snapshot is first
    with pytest.raises(InvalidPageToken, match="restart the listing"):
        paginate(second, 2, token)


def test_recent_snapshots_are_kept() -> None:
    """Those of the last minute are known, and three in any case, but never more than a few."""
    recent = RecentSnapshots()
    snapshots = [make_snapshot([], str(number)) for number in range(100)]
    for number in range(4):
        recent.keep(snapshots[number], 50.0 * number)
    assert [recent.find(str(number)) for number in range(4)] == [None, *snapshots[1:4]]
    recent.keep(snapshots[4], 1000.0)
    assert [recent.find(str(number)) for number in range(5)] == [None, None, *snapshots[2:5]]
    for number in range(5, 100):
        recent.keep(snapshots[number], 1000.0 + number * 0.1)
    assert sum(recent.find(str(number)) is not None for number in range(100)) == MAX_KEPT
    assert recent.find("99") is snapshots[99]


def test_token_belongs_to_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of another filter, view or process is refused."""
    token = paginate(HUNDREDS, 10, filter_text='name LIKE "%"', view="FULL").next_token
    paginate(HUNDREDS, 10, token, 'name LIKE "%"', "FULL")
    for filter_text, view in (("", "FULL"), ('name LIKE "%"', ""), ('name LIKE "%"F', "ULL")):
        with pytest.raises((InvalidPageToken, InvalidFilter)):
            paginate(HUNDREDS, 10, token, filter_text, view)
    monkeypatch.setattr(queries, "_KEY", b"another")
    with pytest.raises(InvalidPageToken):
        paginate(HUNDREDS, 10, token, 'name LIKE "%"', "FULL")


@given(st.one_of(st.text(max_size=100), st.binary(max_size=60).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_token_from_nowhere(token: str) -> None:
    """What is no token of ours is refused."""
    if token:
        with pytest.raises(InvalidPageToken):
            paginate(HUNDREDS, 10, token)


def test_changed_token() -> None:
    """A token with any character changed is refused."""
    token = paginate(HUNDREDS, 10).next_token
    for position, character in enumerate(token):
        changed = token[:position] + ("A" if character != "A" else "B") + token[position + 1 :]
        with pytest.raises(InvalidPageToken):
            paginate(HUNDREDS, 10, changed)
