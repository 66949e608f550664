"""Which value of a model's answer belongs to which row and which output: by names and shapes, never by a guess.

One decision for what a model returns in a worker (`model_outputs` brings it to the forms below) and for the JSON that a
model server makes of it; docs/answers.md has the table of both. The forms:

- `Table`: columns by name, or by place where the names only count them.
- A mapping: one row, or one column for each output, whichever the declared types fit.
- An ndarray: rows first.
- A list or tuple: one entry for each row; of arrays, one for each output. Where shapes fit both, what the model was
  seen to do with another number of rows decides.
- Anything else: the one value of one row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.ipc.faults import OutputDiffers, ValueMissing
from prinz_enricher.ipc.fields import is_any, is_nested

# The least and the greatest depth of lists that a value can have: both 0 for a scalar, 1 for a list of scalars.
Levels = tuple[float, float]

_ROW, _COLUMNS = "one row", "columns"
_ROWS, _OUTPUTS = "an entry for each row", "an entry for each output"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of any library: its columns are lists or ndarrays; `counted` where it has no names of its own."""

    names: Sequence[str]
    columns: Sequence[Any]
    counted: bool = False


class AnswerReader:
    """Takes the answers of one model apart into the values of each output.

    While `learning`, as the model is tried, what a mapping shows of the model's form decides for later ones.
    """

    def __init__(self, schema: pa.Schema, *, named: bool, required: Collection[str] = (), json: bool = False) -> None:
        """Prepare for the schema of the declared outputs.

        A model knows them by their names where it is `named`, else by their position. No row may lack a `required` one;
        the schema shows it only of those for which null is not a value. In `json` a table or a Series is a list of
        objects.
        """
        self._names = schema.names
        self._named = named
        self._required = {*required, *(field.name for field in schema if not field.nullable)}
        self._json = json
        self._levels = [_declared_levels(field) for field in schema]
        self._only = schema.field(0) if len(schema) == 1 else None
        self._undeclared = self._only is not None and is_any(self._only) and not named
        # How each form that can be read in two ways was seen to be meant; empty where it was seen in both.
        self._seen: dict[str, str] = {}
        self.learning = False

    @property
    def lists_are_rows(self) -> bool:
        """Whether the model was seen to answer with a list of rows."""
        return self._seen.get("a list") == _ROWS

    def forget(self) -> None:
        """Forget what was seen, after a form of the model's input was only tried."""
        self._seen = {}

    def columns(self, answer: Any, rows: int) -> Sequence[Any]:
        """Take an answer, in one of the forms above, to at least one row apart.

        Returns for each output a list, tuple or ndarray of as many values as rows. Raises OutputDiffers where it is
        something else than was declared, or can be read in two ways.
        """
        if self._names and _is_none(answer, self._only):
            raise ValueMissing("no answer came back")
        columns = self._columns(answer, rows) if self._names else []
        for values, name in zip(columns, self._names, strict=True):
            if not _is_sequence(values):
                what = "an object" if isinstance(values, Mapping) else "one value"
                raise OutputDiffers(f'"{name}" is {what}, where one value a row is declared')
            if len(values) != rows:
                fault = ValueMissing if len(values) < rows else OutputDiffers
                raise fault(f'{len(values)} rows came back in "{name}" for {rows} rows')
        return columns

    def _columns(self, answer: Any, rows: int) -> Sequence[Any]:
        if isinstance(answer, Table):
            return self._of_table(answer)
        if isinstance(answer, Mapping):
            return self._of_mapping(answer, rows)
        if isinstance(answer, np.ndarray) and answer.ndim:
            return self._of_array(answer, rows)
        if _is_sequence(answer):
            return self._of_sequence(answer, rows)
        if rows != 1:
            raise OutputDiffers(f"one value came back for {rows} rows")
        return self._by_place([[answer]], "value")

    def _by_place(self, columns: Sequence[Any], what: str) -> Sequence[Any]:
        count = len(columns)
        if count != len(self._names):
            raise OutputDiffers(f"{count} {what}{'' if count == 1 else 's'} came back for {len(self._names)} outputs")
        return columns

    def _of_table(self, table: Table) -> Sequence[Any]:
        names, columns = list(table.names), table.columns
        counted = table.counted or _only_count(names)
        if len(set(names)) != len(names):
            raise OutputDiffers("two columns of the same name came back")
        if self._undeclared:
            if counted and len(names) == 1:
                return columns
            return [[dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]]
        if set(self._names) <= set(names) and (self._named or len(self._names) == len(names)):
            return [columns[names.index(name)] for name in self._names]
        by_place = counted or not self._named
        if self._only is not None:
            lists = by_place and self._levels[0] == (1, 1)
            # Of one column: its values, unless they are the only element of a list each.
            if len(names) == 1 and not (lists and _fits(columns[0], (1, 1))):
                return columns
            if lists:
                # The flavours of deep learning give a column for each element.
                return [list(map(list, zip(*columns, strict=True)))]
        if not by_place:
            raise _missing(name for name in self._names if name not in names)
        return self._by_place(columns, "column")

    def _of_mapping(self, answer: Mapping[Any, Any], rows: int) -> Sequence[Any]:
        if self._undeclared:
            return self._of_undeclared(answer, rows)
        by_name = _by_name(answer)
        if self._is_value([by_name]):
            return [_one_row(answer, rows)]
        if self._named or set(by_name) == set(self._names):
            if absent := [name for name in self._names if name not in by_name]:
                raise _missing(absent)
            values = [by_name[name] for name in self._names]
        else:
            values = list(self._by_place(list(by_name.values()), "value"))
        values = list(map(_flat, values, self._levels))
        pairs = list(zip(values, self._levels, strict=True))
        as_row = rows == 1 and all(_fits(value, levels) for value, levels in pairs)
        as_columns = all(_is_column(value, rows) and _fits(value, levels, 1) for value, levels in pairs)
        if as_row and as_columns:
            as_row = self._choose("an object", _ROW, _COLUMNS) is _ROW
        elif not (as_row or as_columns):
            # Of neither kind: each value is refused for what it is.
            as_row = rows == 1 and not all(_is_column(value, 1) for value in values)
        elif self.learning:
            self._note("an object", _ROW if as_row else _COLUMNS)
        return [[value] for value in values] if as_row else values

    def _of_undeclared(self, answer: Mapping[Any, Any], rows: int) -> Sequence[Any]:
        """Return the rows of an object of anything."""
        columns = list(answer.values())
        as_columns = bool(columns) and all(_is_column(values, rows) for values in columns)
        if as_columns and (rows == 1 or "an object" in self._seen):
            as_columns = self._choose("an object", _ROW, _COLUMNS) is _COLUMNS
        elif self.learning and (as_columns or rows == 1):
            self._note("an object", _COLUMNS if as_columns else _ROW)
        if not as_columns:
            return [_one_row(answer, rows)]
        return [[dict(zip(answer, row, strict=True)) for row in zip(*columns, strict=True)]]

    def _is_value(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether objects are the values of the only output, and not rows of outputs by name."""
        only = self._only
        if only is None or not (pa.types.is_struct(only.type) or pa.types.is_map(only.type) or is_any(only)):
            return False
        if not self._named or any(set(row) != {only.name} for row in rows):
            return True
        if pa.types.is_struct(only.type) and only.name in {child.name for child in only.type}:
            raise _ambiguous(f'an object with the one key "{only.name}"', "the value", "a row of outputs")
        return False

    def _of_array(self, array: np.ndarray[Any, Any], rows: int) -> Sequence[Any]:
        if self._only is not None:
            # The values of all rows can be one array in another.
            in_one = self._levels[0] == (0, 0) and array.shape == (1, rows)
            return [array[0] if in_one else _flat(array, self._levels[0])]
        if array.ndim == 2 and array.shape[1] == len(self._names):
            return [array[:, place] for place in range(array.shape[1])]
        raise OutputDiffers(f"an array of the shape {array.shape} came back for {len(self._names)} outputs")

    def _of_sequence(self, answer: Sequence[Any], rows: int) -> Sequence[Any]:
        if answer and all(isinstance(entry, Mapping) for entry in answer):
            return self._of_objects(answer)
        arrays = bool(answer) and all(isinstance(entry, np.ndarray) for entry in answer)
        if self._undeclared:
            # To MLflow each entry of a list is a row; lists of one value each for one row are just that.
            if (arrays or rows > 1) and len(answer) == rows and all(map(_is_sequence, answer)):
                if not all(_is_column(entry, rows) for entry in answer):
                    self._note("a list", _ROWS)
                self._choose("a list", _ROWS, _OUTPUTS)
            return [answer]
        if self._only is not None:
            levels = self._levels[0]
            # An array of the output, in a list of its own.
            alone = len(answer) == 1 and _is_column(answer[0], rows) and _fits(answer[0], levels, 1)
            if rows > 1 and (alone or len(answer) == rows):
                self._note("a list", _OUTPUTS if alone else _ROWS)
            elif alone and _fits(answer[0], levels):
                # The only output of the only row, in whatever list, unless any depth of lists is declared.
                alone = levels[1] == math.inf and self._choose("a list", _ROWS, _OUTPUTS) is _OUTPUTS
            return answer if alone else [answer]
        if arrays and len(answer) == len(self._names):
            answer = list(map(_flat, answer, self._levels))
        by_rows = len(answer) == rows and all(self._is_row(entry) for entry in answer)
        by_outputs = len(answer) == len(self._names) and all(
            _is_column(entry, rows) and _fits(entry, levels, 1)
            for entry, levels in zip(answer, self._levels, strict=True)
        )
        if by_rows and by_outputs:
            # Arrays are outputs, and tuples in a list are rows, where nothing shows the contrary.
            tuples = isinstance(answer, list) and all(isinstance(entry, tuple) for entry in answer)
            default = _OUTPUTS if arrays else _ROWS if tuples else ""
            by_rows = self._choose("a list", _ROWS, _OUTPUTS, default) is _ROWS
        elif by_rows or by_outputs:
            # The shape alone shows it, whatever the rows.
            self._note("a list", _ROWS if by_rows else _OUTPUTS)
        elif all(map(_is_sequence, answer)):
            raise OutputDiffers(f"lists of other lengths than the {len(self._names)} outputs came back")
        else:
            raise OutputDiffers(f"single values came back for {len(self._names)} outputs")
        return list(zip(*answer, strict=True)) if by_rows else answer

    def _is_row(self, entry: Any) -> bool:
        return _is_column(entry, len(self._names)) and all(map(_fits, entry, self._levels))

    def _of_objects(self, answer: Sequence[Mapping[Any, Any]]) -> Sequence[Any]:
        """Return the outputs of rows that are objects: by name; of JSON also by place, as for a table."""
        objects = [_by_name(row) for row in answer]
        names = list(objects[0])
        alike = all(list(row) == names for row in objects)
        if self._undeclared:
            # A Series without a name, or objects with that key: which one shows over several rows.
            only_key = self._json and alike and names == ["0"]
            if self.learning and self._json:
                self._note("a key", "0" if only_key else "others")
            return [[row["0"] for row in objects] if only_key and self._seen.get("a key") == "0" else answer]
        if self._only is not None and self._is_value(objects):
            is_series = self._json and alike and len(names) == 1 and _is_series(objects, names[0], self._only)
            return [[row[names[0]] for row in objects] if is_series else answer]
        by_name = self._named or set(names) == set(self._names)
        if by_name and (not any(objects) or any(name in row for row in objects for name in self._names)):
            for name in self._names:
                if name in self._required and not all(name in row for row in objects):
                    raise _missing([name])
            # An optional output may be absent.
            return [[row.get(name) for row in objects] for name in self._names]
        by_place = self._json and alike and (_only_count(names) or not self._named)
        if self._only is not None and alike:
            values = [list(row.values()) for row in objects]
            lists = by_place and self._levels[0] == (1, 1)
            if len(names) == 1 and not (lists and _fits(values[0][0], (0, 0))):
                return [[row[0] for row in values]]
            if lists:
                return [values]
        elif by_place and len(names) == len(self._names):
            return [[row[name] for row in objects] for name in names]
        raise _missing(name for name in self._names if name not in names)

    def _note(self, what: str, reading: str) -> None:
        """Remember how a form is meant; a model that shows both shows nothing."""
        self._seen[what] = reading if self._seen.get(what, reading) == reading else ""

    def _choose(self, what: str, one: str, other: str, default: str = "") -> str:
        """Return how an answer that can be read in two ways is meant."""
        chosen = self._seen.get(what, default)
        if not chosen:
            raise _ambiguous(what, one, other)
        return chosen


def _is_none(answer: Any, only: pa.Field | None) -> bool:
    """Return whether nothing came back; of one output an object without keys can be a value, and so can None."""
    if isinstance(answer, Table):
        return not answer.columns or not any(len(column) for column in answer.columns)
    if answer is None or isinstance(answer, Mapping):
        return only is None and not answer
    return _is_sequence(answer) and not len(answer)


def _only_count(names: Sequence[str]) -> bool:
    return all(name == str(place) for place, name in enumerate(names))


def _declared_levels(field: pa.Field) -> Levels:
    levels = 0
    while is_nested(field.type) and not (pa.types.is_struct(field.type) or pa.types.is_map(field.type)):
        field = field.type.value_field
        levels += 1
    return levels, math.inf if is_any(field) else levels


def _depth(value: Any) -> Levels:
    """Return how deep a value's lists are; what is empty or None leaves it open."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.ndim, value.ndim
    if not isinstance(value, list | tuple | np.ndarray):
        return (0, math.inf) if value is None else (0, 0)
    levels = value.ndim if isinstance(value, np.ndarray) else 1
    low, high = 0.0, math.inf
    for one in value.flat if isinstance(value, np.ndarray) else value:
        least, most = _depth(one)
        low, high = max(low, least), min(high, most)
        if high < math.inf:
            break
    return low + levels, high + levels


def _fits(value: Any, levels: Levels, more: int = 0) -> bool:
    """Return whether a value can be one of the declared levels, and `more` lists around it."""
    low, high = _depth(value)
    return low <= levels[1] + more and levels[0] + more <= high


def _flat(value: Any, levels: Levels) -> Any:
    """Return the values of a scalar output as one dimension where an array has one column of them."""
    is_column = isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 1
    return value[:, 0] if is_column and levels == (0, 0) else value


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_column(value: Any, rows: int) -> bool:
    return _is_sequence(value) and len(value) == rows


def _is_series(objects: Sequence[Mapping[str, Any]], key: str, field: pa.Field) -> bool:
    """Return whether objects with a single key are a Series of objects, and not the objects."""
    if pa.types.is_struct(field.type):
        return key not in {child.name for child in field.type}
    if pa.types.is_map(field.type):
        item = field.type.item_field
        nested = pa.types.is_struct(item.type) or pa.types.is_map(item.type) or is_any(item)
        return not nested and all(row[key] is None or isinstance(row[key], Mapping) for row in objects)
    return key == "0"


def _one_row(answer: Mapping[Any, Any], rows: int) -> list[Any]:
    if rows != 1:
        raise OutputDiffers(f"one object came back for {rows} rows")
    return [answer]


def _by_name(answer: Mapping[Any, Any]) -> Mapping[str, Any]:
    by_name = {str(name): value for name, value in answer.items()}
    if len(by_name) < len(answer):
        raise OutputDiffers("an object has two keys that are the same as text")
    return by_name


def _missing(names: Iterable[str]) -> OutputDiffers:
    return OutputDiffers("it lacks the outputs " + ", ".join(f'"{name}"' for name in list(names)[:5]))


def _ambiguous(what: str, one: str, other: str) -> OutputDiffers:
    return OutputDiffers(f"{what} came back that can be {one} or {other}: return a DataFrame, or an array of rows")
