"""The short way for single rows of doubles writes what the general way does, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prinz_enricher.errors import EnricherError
from prinz_enricher.fronts.http.invocations import InvocationsForm
from prinz_enricher.fronts.http.parquet import ParquetReader
from prinz_enricher.fronts.http.row_template import JSON, RowTemplates
from prinz_enricher.fronts.http.score_exchange import JsonForm, NussknackerForm, ScoreExchange, ScoreForm
from prinz_enricher.scoring.ports import ScoreResult
from prinz_enricher.service.calls import Call
from prinz_enricher.service.score.messages import response_metadata, write_responses
from prinz_enricher.signature import Field, Param, Scalar, ScalarKind, Signature, output_schema
from tests.support.guarded_service import GuardedService, model_of

DOUBLE = Scalar(ScalarKind.DOUBLE)
SIGNATURE = Signature(
    (
        Field("a", DOUBLE),
        Field("b: 5,", DOUBLE),
        Field("c", DOUBLE, required=False),
        Field("n", Scalar(ScalarKind.LONG)),
    ),
    (Field("y", DOUBLE), Field("z", DOUBLE)),
    (Param("p", DOUBLE, 0.5),),
)
FORMS: dict[str, tuple[Callable[[], ScoreForm], str]] = {
    "rows": (JsonForm, '{"rows": [%s]}'),
    "row": (lambda: NussknackerForm(many=False), "%s"),
    "list": (lambda: NussknackerForm(many=True), "[%s]"),
    "records": (lambda: InvocationsForm(ParquetReader(), 1 << 20, 100), '{"dataframe_records":[%s]}'),
}

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.3f}"),
    st.integers(-(2**64), 2**64).map(str),
    st.integers(-(2**53) - 2, 2**53 + 2).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,45})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(
        ["0", "-0", "-0.0", "0e5", "-0e5", "5.000000000000000000", "9007199254740993", "9007199254740993.0"]
    ),
    st.sampled_from(["1e99", "1e309", "00", "01.5", "1.", ".5", "+1", "null", "NaN", '"NaN"', '"5"', "true", "[1.5]"]),
)


@pytest.fixture(scope="module")
def service() -> Iterator[GuardedService]:
    """Run a service with one model of several doubles."""
    with GuardedService() as running:
        model = model_of("m")
        versions = (replace(model.versions[0], signature=SIGNATURE),)
        running.catalog.change(replace(model, versions=versions))
        yield running


class Asking:
    """Asks for scores by one form with the same templates, and by the general way alone."""

    def __init__(self, service: GuardedService, kind: str) -> None:
        self._service = service
        self._make, self._body = FORMS[kind]
        self.templates = RowTemplates()

    def exchange(self, templates: RowTemplates) -> ScoreExchange:
        """Return what reads a body, and writes its answer."""
        return ScoreExchange(self._service.targets, self._service.series, templates, {"name": "m"}, self._make())

    def outcome(self, row: str, templates: RowTemplates, id: str = "") -> tuple[ScoreExchange, bytes | str]:
        """Return the request for a row, or why there is none."""
        exchange, call = self.exchange(templates), Call("Score", b"", 0.0, None)
        try:
            return exchange, exchange.request(call, (self._body % row).encode(), JSON, b"", id, 10)
        except EnricherError as error:
            return exchange, f"{error.reason} {error}"

    def both(self, row: str, id: str = "") -> tuple[bytes | str, bytes | str]:
        """Return the outcome by the templates, and by the general way."""
        return self.outcome(row, self.templates, id)[1], self.outcome(row, RowTemplates(), id)[1]

    def taught(self) -> Asking:
        """Show it rows, so that the next ones are read by templates."""
        for row in ('{"a": 1.5, "n": 2}', '{"a": 1.5, "b: 5,": 2}', '{"a":1.5,"c":2.5}', '{"a": 1.5}'):
            self.outcome(row, self.templates)
        return self

    @property
    def count(self) -> int:
        """How many kinds of bodies are read by a template."""
        return len(self.templates._known)


@pytest.mark.parametrize("kind", FORMS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=numbers, second=numbers, id=st.sampled_from(["", "one", "x" * 200]))
def test_any_numbers(service: GuardedService, kind: str, first: str, second: str, id: str) -> None:
    """A body of known form has the request, or the refusal, of the general way, whatever its numbers are."""
    asking = Asking(service, kind).taught()

    for row in (
        f'{{"a": {first}, "b: 5,": {second}}}', f'{{"a":{first},"c":{second}}}', f'{{"a": {first}}}',
        f'{{"a": {first}, "n": {second}}}', f'{{"a": {first}, "a": {second}}}',
        f'{{"a": {first}, "c": "NaN"}}], "params": {{"p": {second}}}, "outputs": [',
    ):  # fmt: skip
        for _ in range(3):
            ours, general = asking.both(row, id)
            assert ours == general
    assert asking.count == 2


@pytest.mark.parametrize("kind", FORMS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    calls=st.lists(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=6), min_size=1, max_size=3),
    rows=st.sampled_from([1, 64]),
    seconds=st.floats(0, 1e4),
    id=st.sampled_from(["", "one"]),
)
def test_any_scores(
    service: GuardedService, kind: str, calls: list[list[tuple[float, float]]], rows: int, seconds: float, id: str
) -> None:
    """The answers of a model call are those of the general way, whatever the scores are."""
    asking = Asking(service, kind).taught()
    [version] = service.catalog.snapshot().models["m"].versions
    target = service.targets.of(version)
    for place, scores in enumerate(calls):
        arrays = [pa.array(column, pa.float64()) for column in zip(*scores, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=output_schema(SIGNATURE))
        common = response_metadata(target, ScoreResult(batch, seconds / 3, seconds / 7, rows), seconds + place)

        for response in write_responses(batch, SIGNATURE.outputs, "columns", common, [id.encode()] * len(scores)):
            exchange, _ = asking.outcome('{"a": 2.5}', asking.templates, id)
            general, _ = asking.outcome('{"a": 2.5}', RowTemplates(), id)
            assert exchange._template is not None
            assert general._template is None
            assert exchange.answer(response) == general.answer(response)


def test_a_list_is_no_row(service: GuardedService) -> None:
    """What was learnt of lists is not known of rows by themselves."""
    lists, row = Asking(service, "list").taught(), Asking(service, "row")
    assert "is not an object" in str(row.outcome('[{"a": 1.5}]', lists.templates)[1])


def test_another_signature(service: GuardedService) -> None:
    """What was learnt for a version is forgotten with its signature."""
    asking = Asking(service, "rows").taught()
    [version] = service.catalog.snapshot().models["m"].versions
    try:
        other = Signature((Field("a", Scalar(ScalarKind.LONG)),), SIGNATURE.outputs)
        service.catalog.change(replace(model_of("m"), versions=(replace(version, signature=other),)))

        for row in ('{"a": 1.5}', '{"a": 5}', '{"a": 9007199254740993}'):
            ours, general = asking.both(row)
            assert ours == general
    finally:
        service.catalog.change(replace(model_of("m"), versions=(version,)))
