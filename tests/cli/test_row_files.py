"""Files of rows: CSV, JSON and Parquet go by one policy, and a fault is told by its column and where it stands."""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.batch import batch_from_rows, batch_to_rows
from prinz_enricher.cli.row_files import RowFileError, open_rows
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Scalar, ScalarKind, Tensor, Type

K = ScalarKind


def read(path: Path, *fields: Field, batch_rows: int = 1000, **options: Any) -> list[dict[str, object]]:
    """Read a file as rows."""
    return [row for batch in open_rows(path, fields, batch_rows, **options).batches for row in batch_to_rows(batch)]


def read_cell(folder: Path, cell: str, type: Type, *, required: bool = False) -> object:
    """Read a CSV file of one cell, which stands as it is given beside another column."""
    path = folder / "rows.csv"
    path.write_text(f"x,other\n{cell},1\n", encoding="utf-8")
    return read(path, Field("x", type, required))[0]["x"]


TAKEN: list[tuple[K, str, object]] = [
    *(
        (kind, cell, 3)
        for kind in (K.INTEGER, K.LONG)
        for cell in ("3", "3.0", "+3", " 3 ", '"3"', "30e-1", "003", "3.")
    ),
    (K.LONG, "1e3", 1000),
    (K.LONG, str(2**53 + 1), 2**53 + 1),
    (K.LONG, f"{2**53 + 1}.0", 2**53 + 1),
    (K.LONG, "9.223372036854775807e18", 2**63 - 1),
    (K.LONG, str(-(2**63)), -(2**63)),
    (K.DOUBLE, "0.1", 0.1),
    (K.DOUBLE, "-0", -0.0),
    (K.DOUBLE, ".5e1", 5.0),
    (K.DOUBLE, "1e-400", 0.0),
    (K.DOUBLE, "0.1234567890123456789", 0.1234567890123456789),
    (K.DOUBLE, str(2**53), 2.0**53),
    (K.DOUBLE, "1.7976931348623157e308", 1.7976931348623157e308),
    (K.DOUBLE, "Inf", math.inf),
    (K.DOUBLE, "-infinity", -math.inf),
    (K.DOUBLE, "nan", math.nan),
    (K.DOUBLE, "", math.nan),
    (K.FLOAT, "0.1", 0.10000000149011612),
    (K.FLOAT, "20000000.5", 20000000.0),
    (K.FLOAT, "16777216", 16777216.0),
    *((K.BOOLEAN, cell, True) for cell in ("true", "TRUE", "True", "1", '"true"', " true")),
    *((K.BOOLEAN, cell, False) for cell in ("false", "False", "FALSE", "0")),
    (K.DATETIME, "2024-01-01T10:00:00+02:00", datetime(2024, 1, 1, 8)),
    (K.DATETIME, "2024-01-01 10:00:00Z", datetime(2024, 1, 1, 10)),
    (K.DATETIME, "2024-01-01T10:00:00.123456000", datetime(2024, 1, 1, 10, 0, 0, 123456)),
    (K.DATETIME, "2024-01-01T10:00", datetime(2024, 1, 1, 10)),
    (K.DATETIME, "2024-01-01", datetime(2024, 1, 1)),
    (K.STRING, "007", "007"),
    (K.STRING, " NA ", " NA "),
    (K.STRING, "NA", "NA"),
    (K.STRING, "1e3", "1e3"),
    (K.STRING, '""', ""),
    *((kind, cell, None) for kind in (K.LONG, K.INTEGER, K.BOOLEAN, K.DATETIME) for cell in ("", '""', "NA", "null")),
    (K.STRING, "", None),
]


@pytest.mark.parametrize(("kind", "cell", "wanted"), TAKEN, ids=[f"{k.value}:{c}" for k, c, _ in TAKEN])
def test_cells_that_are_taken(tmp_path: Path, kind: K, cell: str, wanted: object) -> None:
    """A cell is the value that it says, whichever way Arrow would write it."""
    got = read_cell(tmp_path, cell, Scalar(kind))
    assert (repr(got), type(got)) == (repr(wanted), type(wanted))


REFUSED: list[tuple[K, str, str]] = [
    (K.LONG, "3.7", "is not a whole number"),
    (K.LONG, "1e-1", "is not a whole number"),
    (K.LONG, str(2**63), "is outside the range of long"),
    (K.LONG, "1e400", "is outside the range of long"),
    (K.INTEGER, "3000000000", "is outside the range of integer"),
    *(
        (K.LONG, cell, "is text; wanted long")
        for cell in ("0x10", "1_000", '"1,000"', "inf", "three", "--3", "1e", "\uff12")
    ),
    *(
        (K.DOUBLE, cell, "is text; wanted double")
        for cell in ("0x10", "1_000", '"1,000"', "1.5f", "1e", "much", "True")
    ),
    (K.DOUBLE, "1e400", "is a decimal that a floating point number can't tell"),
    (K.DOUBLE, str(2**53 + 1), "is a whole number beyond 2^53, inexact as double"),
    (K.FLOAT, "16777217", "is a whole number beyond 2^24, inexact as float"),
    (K.FLOAT, "1e39", "is outside the range of float"),
    *((K.BOOLEAN, cell, "is text; wanted boolean") for cell in ("yes", "t", "1.0", "2", "on")),
    (K.DATETIME, "2024-01-01T10:00:00.1234567", "has digits finer than microseconds"),
    (K.DATETIME, "01.02.2024", "is not an ISO-8601 date and time"),
    (K.DATETIME, "1704103200", "is not an ISO-8601 date and time"),
    (K.DATETIME, "2024-01-01T10", "is not an ISO-8601 date and time"),
    (K.DATETIME, "0000-01-01", "is not an ISO-8601 date and time"),
    (K.LONG, "", "is null, but a value is required"),
    (K.LONG, "nan", "is null, but a value is required"),
]


@pytest.mark.parametrize(("kind", "cell", "why"), REFUSED, ids=[f"{k.value}:{c}" for k, c, _ in REFUSED])
def test_cells_that_are_refused(tmp_path: Path, kind: K, cell: str, why: str) -> None:
    """What would lose something is refused with the file, the line, the column and the cell."""
    with pytest.raises(RowFileError) as refused:
        read_cell(tmp_path, cell, Scalar(kind), required=True)
    text = cell.strip('"')
    shown = f"{json.dumps(text, ensure_ascii=False)} " if text else ""
    assert str(refused.value) == f'{tmp_path}/rows.csv: line 2, column "x": {shown}{why}'


def test_the_line_is_that_of_the_file(tmp_path: Path) -> None:
    """Lines are counted with empty ones and those within quotes, in every part of the file; all faults are told."""
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffnote;"age"\r\n"a\r\nb";1\r\n\r\n"c";2\r\nd;x\r\n"e\n\nf";3.5\r\ng;4\r\n', encoding="utf-8")
    with pytest.raises(RowFileError) as refused:
        read(path, Field("age", Scalar(K.LONG)), batch_rows=1)
    assert str(refused.value).splitlines() == [
        f'{path}: line 6, column "age": "x" is text; wanted long',
        f'{path}: line 7, column "age": "3.5" is not a whole number',
    ]


def test_the_line_is_right_in_a_later_block(tmp_path: Path) -> None:
    """A fault far behind the first block of the file has its own line, and rows before it have been read."""
    path = tmp_path / "rows.csv"
    lines = [f"{n},{'x' * 90}" for n in range(200_000)]
    lines[190_000] = "1e1," + "x"
    lines[199_998] = "1.5," + "x"
    path.write_text("n,text\n" + "\n".join(lines) + "\n")
    count = 0
    with pytest.raises(RowFileError, match=r'line 200000, column "n": "1.5" is not a whole number'):  # noqa: PT012
        for batch in open_rows(path, [Field("n", Scalar(K.LONG)), Field("text", Scalar(K.STRING))], 50_000).batches:
            count += batch.num_rows
    assert 50_000 < count < 199_998


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b\n1,2\n\n3\n", "line 4: has 1 cells, but the header has 2"),
        (b"a,b\n1,2,3\n", "line 2: has 3 cells, but the header has 2"),
        (b"a,b\n1,2\n3,\xff\n", 'line 3, column "b": is not UTF-8'),
    ],
)
def test_a_broken_line_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    """A line that Arrow can't read is named."""
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(RowFileError) as refused:
        read(tmp_path / "rows.csv", Field("a", Scalar(K.LONG)))
    assert str(refused.value) == f"{tmp_path}/rows.csv: {why}"


def test_columns_that_are_kept_lose_nothing(tmp_path: Path) -> None:
    """A column that is no input is numbers where these tell all of it, and text otherwise."""
    path = tmp_path / "rows.csv"
    path.write_text(
        'x,whole,price,zip,long,date,empty,holes,quoted\n1,1,1.50,007,12345678901234567890,2024-01-01,,,""\n'
        "2,-20,2,70,1,2024-01-02,,5,a\n"
    )
    rows = [{key: value for key, value in row.items() if key != "x"} for row in read(path, Field("x", Scalar(K.LONG)))]
    assert rows == [
        {"whole": 1, "price": "1.50", "zip": "007", "long": "12345678901234567890", "date": "2024-01-01"}
        | {"empty": None, "holes": None, "quoted": ""},
        {"whole": -20, "price": "2", "zip": "70", "long": "1", "date": "2024-01-02"}
        | {"empty": None, "holes": 5, "quoted": "a"},
    ]


def test_a_kept_column_that_turns_out_to_be_text_is_told(tmp_path: Path) -> None:
    """A cell behind the first block that would be changed ends the reading."""
    path = tmp_path / "rows.csv"
    path.write_text("x,id\n" + "".join(f"{n},{n}{'0' * 9}\n" for n in range(1, 900_001)) + "1,007\n")
    with pytest.raises(RowFileError, match=r'line 900002, column "id": "007" can\'t be kept beside the numbers'):
        read(path, Field("x", Scalar(K.LONG)), batch_rows=100_000)


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (["1.10", "1.1"], ["1.10", "1.1"]),
        (["2.0", "1.5", "2"], ["2.0", "1.5", "2"]),
        (["2.0", "1.5", "-0.0"], [2.0, 1.5, -0.0]),
        (["+1", "2"], ["+1", "2"]),
        (["1e5", "2"], ["1e5", "2"]),
        (["0.12345678901234567"] * 2, ["0.12345678901234567"] * 2),
        (["2", "1.5"], [2.0, 1.5]),
        (["-7", ""], [-7, None]),
    ],
)
def test_cells_that_are_kept_are_written_as_they_were(tmp_path: Path, cells: list[str], kept: list[object]) -> None:
    """Numbers are kept as numbers only where these are written as the same text."""
    (tmp_path / "rows.csv").write_text("x,k\n" + "".join(f"1,{cell}\n" for cell in cells))
    assert [row["k"] for row in read(tmp_path / "rows.csv", Field("x", Scalar(K.LONG)))] == kept


def test_numbers_for_a_model_without_a_signature(tmp_path: Path) -> None:
    """Its columns are numbers, however these are written, unless that loses zeros in front."""
    (tmp_path / "rows.csv").write_text("price,n,zip\n1.50,2,007\n2,3.0,1\n")
    assert read(tmp_path / "rows.csv") == [{"price": 1.5, "n": 2.0, "zip": "007"}, {"price": 2.0, "n": 3.0, "zip": "1"}]


def test_json_columns_that_are_kept(tmp_path: Path) -> None:
    """Large decimals stand beside small ones, and within objects; a value of any type may have them, too."""
    path = tmp_path / "rows.json"
    path.write_text(
        '{"a": {"k": [1e23]}, "k": 1e23, "o": {"z": 123456789.0}}\n{"a": 1e23, "k": 0.5, "o": {"z": 1e-3}}\n'
    )
    assert read(path, Field("a", AnyValue())) == [
        {"a": {"k": [1e23]}, "k": 1e23, "o": {"z": 123456789.0}},
        {"a": 1e23, "k": 0.5, "o": {"z": 1e-3}},
    ]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("x\n1\n\n3\n", [1, None, 3]),
        ("\r\n\r\nx\r\n\r\n2\r\n", [None, 2]),
        ("x\n1\n\n", [1, None]),
        ("\nx,y\n1,2\n\n3,4\n", [1, 3]),
        ('x,"a\nb"\n1,2\n', [1]),
        ('"a\nb,c";x\n"1\n";2\n', [2]),
    ],
)
def test_empty_lines_and_line_ends_in_the_header(tmp_path: Path, content: str, values: list[object]) -> None:
    """An empty line is an empty cell of a single column, and nothing of several; the header may hold line ends."""
    path = tmp_path / "rows.csv"
    path.write_text(content, newline="")
    assert [row["x"] for row in read(path, Field("x", Scalar(K.LONG), False))] == values
    path.write_text(content + ("wrong,1" if "," in content else "wrong"), newline="")
    with pytest.raises(RowFileError, match=rf"rows\.csv: line {len(content.splitlines()) + 1}\b"):
        read(path, Field("x", Scalar(K.LONG), False))


@pytest.mark.parametrize("separator", ["ab", "", "\n", '"', "§"])
def test_a_separator_is_one_character(tmp_path: Path, separator: str) -> None:
    """Others are refused by name."""
    (tmp_path / "rows.csv").write_text("x\n1\n")
    with pytest.raises(RowFileError, match=r"the separator .* is invalid; expected one ASCII character"):
        read(tmp_path / "rows.csv", Field("x", Scalar(K.LONG)), separator=separator)


@pytest.mark.parametrize(("name", "content"), [("rows.csv", b"x,k\n"), ("rows.json", b"[]"), ("rows.parquet", b"")])
def test_a_file_without_rows_is_one_empty_part(tmp_path: Path, name: str, content: bytes) -> None:
    """Its inputs have their types, so that the model answers it."""
    (tmp_path / name).write_bytes(content)
    if not content:
        pq.write_table(pa.table({"k": pa.array([], pa.string()), "x": pa.array([], pa.int32())}), tmp_path / name)
    (part,) = open_rows(tmp_path / name, [Field("x", Scalar(K.LONG))], 10).batches
    assert part.num_rows == 0
    assert name == "rows.json" or part.schema.field("x").type == pa.int64()


NESTED = (Field("l", ListOf(Scalar(K.LONG))), Field("m", MapOf(Scalar(K.DOUBLE))), Field("a", AnyValue(), False))


def test_nested_cells_are_json(tmp_path: Path) -> None:
    """Lists, maps and values of any type are JSON, by the same policy; what is not JSON is told by its line."""
    path = tmp_path / "rows.csv"
    path.write_text('l|m|a\n[1, 2.0, 9007199254740993.0]|{"x": 1}|{"t": "1"}\n[]|{}|\n')
    assert read(path, *NESTED) == [
        {"l": [1, 2, 2**53 + 1], "m": {"x": 1.0}, "a": {"t": "1"}},
        {"l": [], "m": {}, "a": None},
    ]
    path.write_text("l|m|a\n[1|{}|no\n[1.5]|{}|1\n")
    with pytest.raises(RowFileError) as refused:
        read(path, *NESTED)
    assert [line.split(": ", 1)[1] for line in str(refused.value).splitlines()] == [
        'line 2, column "l": "[1" is not JSON',
        'line 2, column "a": "no" is not JSON',
    ]
    path.write_text("l|m|a\n" + "[" * 100_000 + "|{}|1\n")
    with pytest.raises(RowFileError, match=r'line 2, column "l": "\[{40}…" is not JSON'):
        read(path, *NESTED)
    path.write_text("l|m|a\n[]|{}|1\n[1, 1.5]|{}|1\n")
    with pytest.raises(RowFileError, match=r'line 3, column "l", \[1\]: "\[1, 1.5\]" is not a whole number'):
        read(path, *NESTED)


def test_a_scalar_tensor_is_read_as_a_scalar(tmp_path: Path) -> None:
    """A named tensor of one value a row is a cell like any other."""
    assert read_cell(tmp_path, "1e2", Tensor("int64", (-1,))) == 100
    assert read_cell(tmp_path, str(2**64 - 1), Tensor("uint64", (-1,))) == 2**64 - 1


@pytest.mark.parametrize("form", ["array", "lines"])
def test_faults_of_json(tmp_path: Path, form: str) -> None:
    """A fault of a JSON file is told with its record or line, in every part; exact numbers stay exact."""
    path = tmp_path / "rows.json"
    fields = (Field("n", Scalar(K.LONG)), Field("d", Scalar(K.DOUBLE)))
    records = [
        '{"n": 9007199254740993.0, "d": 1e22}',
        '{"n": 1e3, "d": 1}',
        '{"n": 3.7, "d": 1e400}',
        '{"n": "3", "d": 1}',
    ]

    def write(which: list[str]) -> None:
        path.write_text("[" + ",\n".join(which) + "]" if form == "array" else "\n\n".join(which))

    write(records[:2])
    assert read(path, *fields) == [{"n": 2**53 + 1, "d": 1e22}, {"n": 1000, "d": 1.0}]
    write(records)
    with pytest.raises(RowFileError) as refused:
        read(path, *fields, batch_rows=2)
    place = "record 3" if form == "array" else "line 5"
    assert str(refused.value).splitlines()[:2] == [
        f'{path}: {place}, column "n": is not a whole number',
        f'{path}: {"record 4" if form == "array" else "line 7"}, column "n": is text; wanted long',
    ]
    assert f'{place}, column "d": is a decimal' in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"n": 1}\n{"n": \n', "line 2: is not JSON"),
        ('{"n": 1}\n\n[1]\n', "line 3: is not a record"),
        ('[{"n": 1}, 3]', "record 2: is not a record"),
        ('{"n": 1}\n{"n": 1, "m": 2}\n', "line 2: has columns that the first records do not have: m"),
        ('{"n": 1e99999999999999999999999}', "line 1: is not JSON"),
        ('{"n": ' + "[" * 100_000, r"line 1: is not JSON \(it is nested too deep\)"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"n": 1, "kept": 9223372036854775808}', 'column "kept" can\'t be kept beside the scores'),
        (
            '{"n": 1, "kept": 9007199254740993.0}',
            'column "kept" can\'t be kept beside the scores: 9007199254740993.0 is',
        ),
        ('{"n": 1, "kept": "\\ud800"}', 'column "kept" can\'t be kept beside the scores'),
    ],
)
def test_broken_json(tmp_path: Path, content: str, why: str) -> None:
    """What is no record is named by its place."""
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(RowFileError, match=rf"rows\.json: {why}"):
        read(tmp_path / "rows.json", Field("n", Scalar(K.LONG)), batch_rows=1)


def test_faults_of_parquet(tmp_path: Path) -> None:
    """Parquet goes by the same policy, and a fault is told with its row in the file."""
    path = tmp_path / "rows.parquet"
    fields = (Field("n", Scalar(K.LONG)), Field("when", Scalar(K.DATETIME), False), Field("a", AnyValue(), False))
    pq.write_table(
        pa.table({"when": ["2024-01-01T10:00:00+02:00", None], "n": [3.0, 4.0], "a": ['{"x": 1}', "2"]}), path
    )
    assert read(path, *fields) == [
        {"when": datetime(2024, 1, 1, 8), "n": 3, "a": '{"x": 1}'},
        {"when": None, "n": 4, "a": "2"},
    ]
    pq.write_table(pa.table({"n": [1.0, 2.0, 3.0, 3.7]}), path)
    with pytest.raises(RowFileError) as refused:
        read(path, *fields, batch_rows=3)
    assert str(refused.value) == f'{path}: row 4, column "n": is not a whole number'
    pq.write_table(pa.table({"n": ["1"]}), path)
    with pytest.raises(RowFileError, match=r"is text; wanted long"):
        read(path, *fields)


VALUES: dict[K, st.SearchStrategy[Any]] = {
    K.LONG: st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(-1e15, 1e15).map(round)),
    K.DOUBLE: st.floats(allow_nan=False),
    K.FLOAT: st.floats(allow_nan=False, width=32),
    K.BOOLEAN: st.booleans(),
    K.STRING: st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    K.DATETIME: st.datetimes().map(lambda when: when.replace(fold=0)),
}


@given(st.sampled_from(list(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(VALUES[kind], min_size=1))))
def test_csv_gives_the_values_that_python_wrote(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    """Whatever Python's own writer writes comes back as it was, alone and among cells that only Python can read."""
    kind, values = drawn
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("x", "y"), *((value, 1) for value in values)])
    assert [repr(row["x"]) for row in read(path, Field("x", Scalar(kind)))] == [repr(value) for value in values]


@given(st.lists(st.from_regex(r"[+-]?[0-9]{0,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True), min_size=1))
def test_the_quick_way_reads_as_the_slow_one(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    """A number is taken or refused, to the bit, whatever stands in the other cells of its column."""
    path = tmp_path_factory.mktemp("csv") / "rows.csv"

    def outcome(cell: str, kind: K, *others: str) -> str:
        path.write_text("x,y\n" + "".join(f"{one},1\n" for one in (cell, *others)))
        try:
            return repr(read(path, Field("x", Scalar(kind), required=False))[0]["x"])
        except RowFileError as error:
            return str(error).splitlines()[0]

    for kind, other in ((K.LONG, "1e0"), (K.DOUBLE, "inf"), (K.FLOAT, "inf"), (K.INTEGER, "1.0")):
        for cell in cells:
            assert outcome(cell, kind) == outcome(cell, kind, other)


def test_a_decimal_is_what_json_makes_of_it(tmp_path: Path) -> None:
    """CSV and JSON agree on numbers, taken or refused."""
    whole = ("9007199254740993.0", "-9007199254740993e0", "90071992547409930e-1", "16777217.0", "16777218.0", "1e23")
    for text in ("3.0", "3.7", "1e3", "0.1", "1e400", "9007199254740993", "-5", "1e15", "123456789.125", *whole):
        for kind in (K.LONG, K.INTEGER, K.DOUBLE, K.FLOAT):
            outcomes = []
            for name, content in (("rows.json", f'{{"x": {text}}}'), ("rows.csv", f"x\n{text}\n")):
                (tmp_path / name).write_text(content)
                try:
                    outcomes.append(repr(read(tmp_path / name, Field("x", Scalar(kind)))))
                except RowFileError as error:
                    outcomes.append(str(error).rsplit(" is ", 1)[1])
            assert outcomes[0] == outcomes[1], (text, kind)


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_a_whole_number_is_no_other_for_its_decimal_point(tmp_path: Path, name: str) -> None:
    """A decimal that is whole and beyond the exact range is refused where the type lacks it; fractions are rounded."""

    def outcome(text: str, kind: K) -> object:
        (tmp_path / name).write_text(f"x\n{text}\n" if name.endswith("csv") else f'{{"x": {text}}}')
        try:
            return read(tmp_path / name, Field("x", Scalar(kind)))[0]["x"]
        except RowFileError as error:
            return str(error).rsplit(" is ", 1)[1]

    refused = "a decimal that a floating point number can't tell"
    double = ("9007199254740993.0", "-9007199254740993.0", "9007199254740993e0", "900719925474099.3e1", "1e400")
    assert [outcome(text, K.DOUBLE) for text in double] == [refused] * 5
    single = ("16777217.0", "-16777217.0", "1.6777217e7", "123456789.0", "1234567890123456768.0")
    assert [outcome(text, K.FLOAT) for text in single] == [refused] * 5
    assert [outcome(text, K.DOUBLE) for text in ("9007199254740994.0", "1e23", "0.1", "16777217.0")] == [
        9007199254740994.0,
        1e23,
        0.1,
        16777217.0,
    ]
    assert [outcome(text, K.FLOAT) for text in ("16777218.0", "1e23", "16777217.5", "0.1")] == [
        16777218.0,
        9.999999778196308e22,
        16777218.0,
        0.10000000149011612,
    ]


def test_the_policy_of_files_is_that_of_rows(tmp_path: Path) -> None:
    """What a JSON file may hold is what the client takes as records."""
    fields = [Field("x", Scalar(K.LONG))]
    for value in (3, 3.0, 3.7, "3", True, None):
        (tmp_path / "rows.json").write_text(json.dumps([{"x": value}]))
        try:
            wanted: object = batch_to_rows(batch_from_rows([{"x": value}], fields))
        except InvalidInput as error:
            wanted = error.violations[0].description
        try:
            got: object = read(tmp_path / "rows.json", *fields)
        except RowFileError as error:
            got = str(error).rsplit('"x": ', 1)[1]
        assert got == wanted
