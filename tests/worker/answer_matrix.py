"""What becomes of each form in which a model can answer: the table of docs/answers.md.

`make docs` writes the page anew.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from scipy import sparse  # type: ignore[import-untyped] # has no stubs

from prinz_enricher.errors import OutputMismatch
from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.scoring.remote.predictions import answer_reader, decode
from prinz_enricher.signature import AnyValue, Field, Scalar, ScalarKind, Signature, output_schema
from prinz_enricher.worker.model_outputs import OutputReader
from prinz_enricher.worker.trial import OutputsDiffer, RowsExchanged, Sample, check_answers, may_share

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"
START, END = "<!-- made by tests/worker/answer_matrix.py -->", "<!-- end -->"

LONG, DOUBLE = Scalar(ScalarKind.LONG), Scalar(ScalarKind.DOUBLE)
Values = dict[str, list[Any]]
Read = Callable[[Any, int], pa.RecordBatch]
ALL: Values = {"label": [1, 2, 3], "p": [0.5, 0.25, 0.125]}

OUTPUTS: dict[str, tuple[Signature, list[str]]] = {
    "one output": (Signature((), (Field("p", DOUBLE),)), ["p"]),
    "two outputs": (Signature((), (Field("label", LONG), Field("p", DOUBLE))), ["label", "p"]),
    "not declared": (Signature((), (Field("output_0", AnyValue()),)), ["label", "p"]),
}
ROWS = (1, 2, 3)


def shuffled(values: Values) -> pd.DataFrame:
    """Make a frame whose rows stand in another order, with the index of the input."""
    return pd.DataFrame(values).iloc[::-1]


def rows_of(values: Values) -> list[tuple[Any, ...]]:
    """Give the rows."""
    return list(zip(*values.values(), strict=True))


def last(values: Values) -> list[Any]:
    """Give the values of the last output alone."""
    return list(values.values())[-1]


FORMS: dict[str, Callable[[Values], Any]] = {
    "pandas DataFrame": pd.DataFrame,
    "DataFrame, rows reordered, index kept": shuffled,
    "DataFrame, columns reordered": lambda values: pd.DataFrame(values)[list(values)[::-1]],
    "DataFrame, nullable dtypes": lambda values: pd.DataFrame(values).convert_dtypes(),
    "pandas Series": lambda values: pd.Series(last(values)),
    "Series, rows reordered, index kept": lambda values: pd.Series(last(values)).iloc[::-1],
    "pandas Index": lambda values: pd.Index(last(values)),
    "ndarray, one dimension": lambda values: np.array(last(values)),
    "ndarray, two dimensions": lambda values: np.array(rows_of(values)),
    "scipy sparse matrix": lambda values: sparse.csr_matrix(np.array(rows_of(values))),
    "Polars DataFrame": pl.DataFrame,
    "Polars Series": lambda values: pl.Series(last(values)),
    "Arrow table, columns reordered": lambda values: pa.table(dict(list(values.items())[::-1])),
    "list of scalars": last,
    "list of lists, by row": lambda values: [list(row) for row in rows_of(values)],
    "list of tuples, by row": rows_of,
    "list of arrays, by row": lambda values: [np.array(row) for row in rows_of(values)],
    "list of dicts": lambda values: pd.DataFrame(values).to_dict("records"),
    "tuple of arrays, by output": lambda values: tuple(map(np.array, values.values())),
    "list of lists, by output": lambda values: list(values.values()),
    "dict of scalars": lambda values: {name: column[0] for name, column in values.items()},
    "dict of lists": dict,
    "dict of arrays": lambda values: {name: np.array(column) for name, column in values.items()},
    "dict of dicts (`to_dict()`)": lambda values: pd.DataFrame(values).to_dict(),
    "generator": lambda values: (row for row in rows_of(values)),
}
NAMED = {
    "pandas DataFrame",
    "DataFrame, rows reordered, index kept",
    "DataFrame, columns reordered",
    "DataFrame, nullable dtypes",
    "Polars DataFrame",
    "Arrow table, columns reordered",
    "list of dicts",
    "dict of scalars",
    "dict of lists",
    "dict of arrays",
}
ALONE = {
    "pandas Series",
    "Series, rows reordered, index kept",
    "pandas Index",
    "ndarray, one dimension",
    "Polars Series",
    "list of scalars",
}
"""Forms that hold the last output alone."""


RIGHT, ROW_BY_ROW = "right", "row by row"


@dataclass(frozen=True)
class Cell:
    """What came of one form, for some outputs and rows.

    Attributes:
        read: The rows that were read; None where the model, or the answer, was refused.
        right: The rows that the author means.
        text: What the page says of it.
        why: Why it was refused.
    """

    read: list[Any] | None
    right: list[Any]
    text: str
    why: str = ""


def meant(form: str, names: list[str], count: int, *, declared: bool) -> list[Any]:
    """Give the rows that an author means by an answer."""
    values = {name: ALL[name][:count] for name in names}
    records = [dict(zip(values, row, strict=True)) for row in rows_of(values)]
    if declared or form in NAMED:
        return records
    if form == "dict of dicts (`to_dict()`)":
        # What it is of one row, to MLflow too.
        return [{name: {"0": value} for name, value in row.items()} for row in records]
    return last(values) if form in ALONE else [list(row) for row in rows_of(values)]


def answers(outputs: str, form: str) -> dict[int, Any]:
    """Give a model's answers in a form, by the number of rows."""
    _, names = OUTPUTS[outputs]
    return {rows: FORMS[form]({name: ALL[name][:rows] for name in names}) for rows in ROWS}


def in_worker(outputs: str, form: str) -> dict[int, Cell]:
    """Serve a model that answers in a form as a worker does."""
    signature, _ = OUTPUTS[outputs]
    reader = OutputReader(output_schema(signature), named=outputs != "not declared")
    return _served(outputs, form, reader.read, reader.trying)


def behind_server(outputs: str, form: str) -> dict[int, Cell]:
    """Serve it where MLflow's scoring server writes its answers as JSON."""
    signature, _ = OUTPUTS[outputs]
    reader = answer_reader(signature)

    def read(answer: Any, rows: int) -> pa.RecordBatch:
        from mlflow.pyfunc.scoring_server import predictions_to_json

        out = io.StringIO()
        try:
            predictions_to_json(answer, out)  # type: ignore[no-untyped-call]
        except TypeError as exc:
            raise OutputDiffers("MLflow's server can't write it as JSON") from exc
        try:
            return decode(out.getvalue().encode(), "m", "1", signature, rows, reader)
        except OutputMismatch as exc:
            raise OutputDiffers(str(exc.metadata["why"])) from exc

    @contextlib.contextmanager
    def trying() -> Iterator[None]:
        reader.learning = True
        yield
        reader.learning = False

    return _served(outputs, form, read, trying)


def _served(outputs: str, form: str, read: Read, trying: Callable[[], Any]) -> dict[int, Cell]:
    """Try the model as at load, on three rows and their variations, and then ask for one, two and three rows."""
    _, names = OUTPUTS[outputs]

    def score(rows: pa.RecordBatch) -> pa.RecordBatch:
        places = rows.column(0).to_pylist()
        values = {name: [ALL[name][place] for place in places] for name in names}
        return read(FORMS[form](values), len(places))

    example = pa.RecordBatch.from_pydict({"place": [0, 1, 2]})
    refusal, single = "", False
    try:
        with trying():
            check_answers(score, [Sample(example, example=True)])
            single = may_share(score, [example], exact=True).single
    except OutputsDiffer as exc:
        refusal = str(exc.__cause__)
    except RowsExchanged as exc:
        refusal = str(exc)
    cells = {}
    for rows in ROWS:
        right = meant(form, names, rows, declared=outputs != "not declared")
        if refusal:
            cells[rows] = Cell(None, right, "refused", refusal)
            continue
        parts = [example.slice(place, 1) for place in range(rows)] if single else [example.slice(0, rows)]
        found = [row for part in parts for row in read_of(score(part))]
        cells[rows] = Cell(found, right, ROW_BY_ROW if single and rows > 1 else RIGHT)
    return cells


def read_of(batch: pa.RecordBatch) -> list[Any]:
    """Give the rows of what was read."""
    if batch.schema.names == ["output_0"]:
        return [json.loads(text) for text in batch.column(0).to_pylist()]
    return list(batch.to_pylist())


def table() -> str:
    """Write the table of the page: a column for each place and outputs, with what comes of one, two and three rows."""
    places = {"worker": in_worker, "server": behind_server}
    reasons: list[str] = []
    head = [f"{place}: {outputs}" for place in places for outputs in OUTPUTS]
    lines = [f"| the model returns | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for form in FORMS:
        cells = [_text(served(outputs, form), reasons) for served in places.values() for outputs in OUTPUTS]
        lines.append(f"| {form} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes])


def _text(cells: dict[int, Cell], reasons: list[str]) -> str:
    """Return what comes of one form: once where it is the same for any number of rows."""
    texts = {rows: _outcome(cell, reasons) for rows, cell in cells.items()}
    if len(set(texts.values())) == 1:
        return texts[ROWS[0]]
    return ", ".join(
        f"{'/'.join(str(rows) for rows in texts if texts[rows] == text)}: {text}"
        for text in dict.fromkeys(texts.values())
    )


def _outcome(cell: Cell, reasons: list[str]) -> str:
    if not cell.why:
        return cell.text
    if cell.why not in reasons:
        reasons.append(cell.why)
    return f"refused ({reasons.index(cell.why) + 1})"


def page(text: str) -> str:
    """Give the page with the table as it is now."""
    before, after = text.index(START) + len(START), text.index(END)
    return f"{text[:before]}\n\n{table()}\n\n{text[after:]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
