"""What model servers answer, as the outputs that were declared."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prinz_enricher.errors import OutputMismatch
from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.scoring.remote.predictions import NotPredictions, answer_reader, decode
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Signature,
    Tensor,
    output_schema,
)
from prinz_enricher.worker.model_outputs import OutputReader
from tests.batch.batch_strategies import fields_of, jsons, types
from tests.scoring.remote.reading import (
    BOOLEAN,
    DOUBLE,
    FLOAT,
    INTEGER,
    LONG,
    STRING,
    as_mlflow_writes,
    named,
    only,
    read,
)


@pytest.mark.parametrize(
    "result",
    [
        np.array([1.5, 2.5]),
        np.array([[1.5], [2.5]]),
        np.array([1.5, 2.5], dtype=np.float32),
        np.array([1.5, 2.5], dtype=object),
        pd.Series([1.5, 2.5], index=[7, 3]),
        pd.Series([1.5, 2.5], name="whatever"),
        pd.DataFrame({"whatever": [1.5, 2.5]}),
        pd.DataFrame([[1.5], [2.5]]),
        [1.5, 2.5],
        (1.5, 2.5),
        [[1.5], [2.5]],
        {"p": np.array([1.5, 2.5])},
        {"p": [1.5, 2.5]},
    ],
    ids=lambda result: type(result).__name__,
)
def test_one_double_is_read_from_all_that_mlflow_writes(result: object) -> None:
    """The same two numbers, whether the output has a name or not."""
    assert read(as_mlflow_writes(result), only(DOUBLE), 2) == [[1.5, 2.5]]
    assert read(as_mlflow_writes(result), only(DOUBLE, "p"), 2) == [[1.5, 2.5]]


@pytest.mark.parametrize("result", [1.5, np.float32(1.5), np.array(1.5), [1.5], {"p": 1.5}])
def test_a_bare_value_is_one_row(result: object) -> None:
    """A model that answers one row with a value and no list is understood."""
    assert read(as_mlflow_writes(result), only(DOUBLE), 1) == [[1.5]]


@pytest.mark.parametrize(
    ("predictions", "rows", "why"),
    [
        ("[1]", 2, '1 rows came back in "output_0" for 2 rows'),
        ("[1, 2, 3]", 2, '3 rows came back in "output_0" for 2 rows'),
        ("[]", 1, "no answer came back"),
        ("7", 2, "one value came back for 2 rows"),
        ('{"p": [1, 2, 3]}', 2, '3 rows came back in "output_0" for 2 rows'),
        ('{"p": {"0": 1, "1": 2}}', 2, '"output_0" is an object, where one value a row is declared'),
        ('{"p": [1], "q": [1]}', 1, "2 values came back for 1 outputs"),
        ("[[1, 2]]", 1, '"output_0" has a value that is a list, where integer is declared'),
        ("[[[1]]]", 1, '"output_0" has a value that is a list, where integer is declared'),
        ('[{"a": 1, "b": 2}]', 1, 'it lacks the outputs "output_0"'),
        ("null", 1, '"output_0" has a value that is missing'),
    ],
)
def test_another_number_of_rows_or_another_form_is_refused(predictions: str, rows: int, why: str) -> None:
    """Rows out must equal rows in; both numbers are told."""
    with pytest.raises(OutputMismatch) as caught:
        read(predictions, only(INTEGER), rows)
    assert caught.value.metadata["why"] == why
    assert caught.value.metadata["model"] == "wine"
    assert caught.value.metadata["version"] == "3"


TWO = named(label=LONG, p=DOUBLE)


@pytest.mark.parametrize(
    "result",
    [
        pd.DataFrame({"p": [0.5, 0.25, 0.125], "extra": [0, 0, 0], "label": [1, 2, 3]}),
        {"p": np.array([0.5, 0.25, 0.125]), "label": [1, 2, 3]},
        [{"label": 1, "p": 0.5}, {"p": 0.25, "label": 2}, {"p": 0.125, "label": 3}],
        np.array([[1.0, 0.5], [2.0, 0.25], [3.0, 0.125]]),
        [(1, 0.5), (2, 0.25), (3, 0.125)],
        (np.array([1, 2, 3]), np.array([0.5, 0.25, 0.125])),
        pd.DataFrame([[1, 0.5], [2, 0.25], [3, 0.125]]),
    ],
    ids=lambda result: type(result).__name__,
)
def test_named_outputs_are_found_by_name_else_by_position(result: object) -> None:
    """Names decide where there are any."""
    assert read(as_mlflow_writes(result), TWO, 3) == [[1, 2, 3], [0.5, 0.25, 0.125]]


def test_lists_of_as_many_rows_as_outputs_are_read_as_others_before() -> None:
    """JSON does not tell rows from outputs; another number of rows does, and what it shows is kept."""
    by_rows, by_outputs = "[[1, 0.5], [2, 0.25]]", "[[1, 2], [0.5, 0.25]]"
    for square in (by_rows, by_outputs):
        with pytest.raises(OutputMismatch, match="an entry for each row or an entry for each output"):
            read(square, TWO, 2)
    for first, square in (("[[7, 0.75]]", by_rows), ("[[7], [0.75]]", by_outputs)):
        answers = answer_reader(TWO)
        for text, rows in ((first, 1), (square, 2)):
            batch = decode(f'{{"predictions": {text}}}'.encode(), "m", "1", TWO, rows, answers)
        assert batch.to_pydict() == {"label": [1, 2], "p": [0.5, 0.25]}


def test_outputs_without_names_are_found_by_position() -> None:
    """In a frame of any names, and in lists."""
    signature = named(output_0=LONG, output_1=DOUBLE)
    for result in (pd.DataFrame({"z": [1], "a": [0.5]}), [[1, 0.5]], {"z": [1], "a": [0.5]}, {"z": 1, "a": 0.5}):
        assert read(as_mlflow_writes(result), signature, 1) == [[1], [0.5]]


@pytest.mark.parametrize(
    "predictions",
    [
        '[{"p": 0.5, "other": 1}]',
        '{"p": [0.5]}',
        '[{"p": 0.5}]',
        "[[0.0, 0.0, 0.0]]",
        "[0.0]",
        "0.5",
        "[[1, 0.5], 1]",
        "[[1, 0.5], [1]]",
        '[{"label": 1, "p": 0.5}, {"label": 1}]',
        '[{"label": 1, "p": 0.5}, 1]',
    ],
)
def test_an_output_that_is_missing_is_refused(predictions: str) -> None:
    """Nothing is filled in."""
    with pytest.raises(OutputMismatch):
        read(predictions, TWO, predictions.count("], ") + predictions.count("}, ") + 1)


def test_an_optional_output_may_be_absent() -> None:
    """A row without it has a null, or NaN by itself if it is a required double."""
    signature = Signature((), (Field("label", LONG), Field("note", STRING, False)))
    assert read('[{"label": 1}, {"label": 2, "note": "x"}]', signature, 2) == [[1, 2], [None, "x"]]


def test_integer_names_are_found() -> None:
    """A frame with integer column names has them as text."""
    signature = Signature((), (Field("1", DOUBLE), Field("0", DOUBLE)))
    assert read('[{"0": 1.0, "1": 2.0}]', signature, 1) == [[2.0], [1.0]]


def test_lists_come_as_lists_or_as_columns_of_a_frame() -> None:
    """PyTorch's flavour gives a DataFrame with a column for each element."""
    pairs = np.arange(6, dtype=np.float32).reshape(3, 2)
    wanted = [pairs.tolist()]
    unnamed: list[Any] = [
        pairs,
        pd.DataFrame(pairs),
        pd.Series(pairs.tolist()),
        pd.DataFrame(pairs, columns=["a", "b"]),
    ]
    for result in unnamed:
        assert read(as_mlflow_writes(result), only(Tensor("float32", (-1, 2))), 3) == wanted
    named: list[Any] = [pairs, pd.DataFrame(pairs), {"p": pairs}, pd.DataFrame({"p": pairs.tolist()})]
    for result in named:
        assert read(as_mlflow_writes(result), only(Tensor("float32", (-1, 2)), "p"), 3) == wanted
    assert read(as_mlflow_writes(pd.DataFrame([[1.0], [2.0]])), only(Tensor("float64", (-1, 1))), 2) == [[[1.0], [2.0]]]


def test_objects_come_as_they_are_or_in_a_series() -> None:
    """A row that is an object is the value, unless it is a row of a Series or names the output."""
    record = Record((Field("x", DOUBLE), Field("tags", ListOf(STRING), False)))
    rows = [{"x": 1.0, "tags": ["a"]}, {"x": 2.0, "tags": None}]
    results: list[Any] = [rows, pd.Series(rows), pd.Series(rows, name="s")]
    # An optional property is held as a struct of its value.
    held = [[{"x": 1.0, "tags": {"value": ["a"]}}, {"x": 2.0, "tags": {"value": None}}]]
    for result in results:
        assert read(as_mlflow_writes(result), only(record), 2) == held
        assert read(as_mlflow_writes(result), only(record, "p"), 2) == held
    assert read(json.dumps([{"p": row} for row in rows]), only(record, "p"), 2) == held
    assert read('{"x": 1.0}', only(record), 1) == [[{"x": 1.0, "tags": None}]]
    maps = [{"k": 1}, {"k": 2}]
    for result in [maps, pd.Series(maps)]:
        assert read(as_mlflow_writes(result), only(MapOf(LONG)), 2) == [[[("k", 1)], [("k", 2)]]]
    assert read("[{}, {}]", only(MapOf(LONG)), 2) == [[[], []]]


@pytest.mark.parametrize(
    ("result", "rows", "wanted"),
    [
        (np.array([1.5, np.nan]), 2, ["1.5", "NaN"]),
        ([{"a": np.int64(1)}, None], 2, ['{"a": 1}', None]),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), 2, ['{"a": 1, "b": "x"}', '{"a": 2, "b": "y"}']),
        ({"a": np.array([1, 2]), "b": ["x", "y"]}, 2, ['{"a": 1, "b": "x"}', '{"a": 2, "b": "y"}']),
        ({"answer": "yes"}, 1, ['{"answer": "yes"}']),
        ("text", 1, ['"text"']),
        (None, 1, [None]),
        (np.array([[1, 2], [3, 4], [5, 6]]), 3, ["[1, 2]", "[3, 4]", "[5, 6]"]),
        ([np.float32(0.1), math.inf], 2, ["0.10000000149011612", "Infinity"]),
        (pd.Series(["a", "é"]), 2, ['"a"', '"é"']),
        (pd.DataFrame([[1.5], [2.5]]), 2, ["1.5", "2.5"]),
        ([pd.Timestamp("2024-01-02")], 1, ['"2024-01-02T00:00:00"']),
    ],
)
def test_values_of_any_type_become_the_json_that_a_worker_writes(
    result: object, rows: int, wanted: list[str | None]
) -> None:
    """The same text, to the letter, once the model was seen to answer so."""
    answers = answer_reader(only(AnyValue()))
    content = f'{{"predictions": {as_mlflow_writes(result)}}}'.encode()
    for answers.learning in (True, False):
        batch = decode(content, "m", "1", only(AnyValue()), rows, answers)
    assert batch.to_pydict() == {"output_0": wanted}
    assert OutputReader(output_schema(only(AnyValue())), named=False).read(result, rows).to_pydict() == {
        "output_0": wanted
    }


def test_objects_of_the_one_key_0_stay_objects_where_no_series_was_seen() -> None:
    """MLflow writes a Series without a name like that; what a company of rows changes shows which one it is."""
    signature = only(AnyValue())
    assert read('[{"0": 0.9}, {"0": 0.8}]', signature, 2) == [['{"0": 0.9}', '{"0": 0.8}']]
    answers = answer_reader(signature)
    answers.learning = True
    for text in ('[{"0": 0.9}, {"0": 0.8}]', '[{"0": 0.9}, {"1": 0.8}]'):
        decode(f'{{"predictions": {text}}}'.encode(), "m", "1", signature, 2, answers)
    batch = decode(b'{"predictions": [{"0": 0.9}]}', "m", "1", signature, 1, answers)
    assert batch.to_pydict() == {"output_0": ['{"0": 0.9}']}


def test_outputs_that_are_named_like_those_without_names_go_by_name() -> None:
    """As TensorFlow names them."""
    signature = named(output_0=DOUBLE, output_1=DOUBLE)
    assert read('[{"output_1": 1.0, "output_0": 0.0}]', signature, 1) == [[0.0], [1.0]]
    assert read('{"output_1": [1.0], "output_0": [0.0]}', signature, 1) == [[0.0], [1.0]]


numbers = st.integers(-(2**53) - 2, 2**53 + 2) | st.integers(-3, 3) | st.floats() | st.floats(-3, 3).map(round)
scalars = numbers | st.booleans() | st.text(max_size=3) | st.none()
results = st.one_of(
    st.lists(scalars, max_size=4),
    st.lists(numbers, min_size=1, max_size=4).map(np.array),
    st.lists(numbers, min_size=1, max_size=4).map(lambda values: np.array(values).reshape(-1, 1)),
    st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4).map(np.array),
    st.lists(numbers, min_size=1, max_size=4).map(pd.Series),
    st.lists(st.floats(), min_size=1, max_size=4).map(lambda values: pd.DataFrame({"p": values, "q": values})),
    st.lists(st.tuples(scalars, scalars), max_size=4),
    st.lists(st.fixed_dictionaries({"p": scalars, "q": scalars}), max_size=4),
    st.fixed_dictionaries({"p": st.lists(scalars, max_size=2), "q": st.lists(scalars, max_size=2)}),
    scalars,
)
signatures = st.one_of(
    st.builds(only, st.sampled_from([DOUBLE, FLOAT, LONG, INTEGER, BOOLEAN, STRING, AnyValue()])),
    st.builds(only, st.sampled_from([Tensor("float64", (-1, 2)), ListOf(DOUBLE), ListOf(LONG)])),
    st.builds(named, p=st.sampled_from([DOUBLE, LONG, STRING]), q=st.sampled_from([DOUBLE, FLOAT, STRING])),
)


def is_told_by_json(result: object, signature: Signature, rows: int) -> bool:
    """Tell whether a worker decides by what a result holds, and not by what it is, which JSON does not tell."""
    only_lists = len(signature.outputs) == 1 and isinstance(signature.outputs[0].type, ListOf | Tensor)
    if isinstance(result, list) and any(isinstance(row, dict) for row in result):
        # As a frame, its columns are the elements of lists; and a worker makes nulls of texts that are not there.
        return not only_lists and signature != only(STRING)
    # As a frame of one column, it has lists of one element.
    if isinstance(result, pd.Series) and only_lists:
        return False
    # As lists, rows are not told from outputs: an array of rows may be read as a list of outputs.
    outputs = len(signature.outputs)
    if isinstance(result, np.ndarray) and result.shape == (2, rows) and outputs == 2:
        return False
    # Nor where there are as many of both.
    return not (outputs == rows == 2 and isinstance(result, list | np.ndarray) and len(result) == 2)


@given(results, signatures, st.integers(1, 4))
def test_a_worker_and_a_model_server_decide_alike(result: Any, signature: Signature, rows: int) -> None:
    """What a model returns is taken or refused, and read, as if it had been returned in a worker of our own."""
    schema = output_schema(signature)
    assume(is_told_by_json(result, signature, rows))
    try:
        here = OutputReader(schema, named=schema.names == ["p", "q"]).read(result, rows)
    except OutputDiffers:
        with pytest.raises(OutputMismatch):
            read(as_mlflow_writes(result), signature, rows)
        return
    except UnicodeEncodeError:
        return
    there = decode(f'{{"predictions": {as_mlflow_writes(result)}}}'.encode(), "m", "1", signature, rows)
    assert repr(there.to_pydict()) == repr(here.to_pydict())


anything = st.recursive(
    jsons,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(["a", "0", "output_0"]), parts),
    max_leaves=8,
)


@given(anything.map(json.dumps) | st.text(), fields_of(types), st.integers(0, 3))
def test_nothing_else_than_a_mismatch_is_raised(text: str, fields: tuple[Field, ...], rows: int) -> None:
    """Whatever a server answers."""
    try:
        batch = decode(f'{{"predictions": {text}}}'.encode(errors="replace"), "m", "1", Signature((), fields), rows)
    except (OutputMismatch, NotPredictions):
        return
    assert batch.num_rows == rows
    batch.validate(full=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[1]",
        b"null",
        b'{"outputs": [1]}',
        b'{"predictions": [1]',
        b'{"predictions": [1]} {}',
        b'\xef\xbb\xbf{"predictions": [1]}',
    ],
)
def test_what_has_no_predictions_comes_from_no_model_server(content: bytes) -> None:
    """No JSON, other JSON, or half of it."""
    with pytest.raises(NotPredictions):
        decode(content, "m", "1", only(LONG), 1)


def test_other_members_of_the_answer_are_left_alone() -> None:
    """Databricks adds some of its own."""
    content = b'{"predictions": [1], "databricks_output": {"trace": {}}}'
    assert decode(content, "m", "1", only(LONG), 1).to_pydict() == {"output_0": [1]}


def test_arrow_holds_the_metadata_of_the_schema() -> None:
    """A reader that knows only Arrow sees what is JSON and what a tensor."""
    batch = decode(b'{"predictions": [1]}', "m", "1", only(AnyValue()), 1)
    assert batch.schema.field(0).metadata == {b"prinz.type": b"any"}
    assert batch.schema.field(0).type == pa.utf8()
