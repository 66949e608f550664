"""What is wrong with a file of rows, told by its columns and lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from prinz_enricher.batch.faults import column_path, quoted
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Field


class RowFileError(Exception):
    """A file can't be read or written; the message says which and why, a line for each fault."""


Places = Callable[[Sequence[int]], Mapping[int, str]]
"""Says for rows of a part where they stand in the file, such as `line 17`."""


def refused(
    error: InvalidInput, fields: Sequence[Field], places: Places, cell: Callable[[str, int], str] = lambda _, __: ""
) -> RowFileError:
    """Tell the faults of a part by the places of its file.

    Args:
        error: With paths such as `columns["age"][3]`.
        fields: The inputs of the model.
        places: Where the rows stand.
        cell: Gives what stands in a column and row, to be repeated; empty for nothing.

    Returns:
        An error without the name of the file, such as `line 17, column "age": is not a whole number`.
    """
    found = [_value_of(violation.field, fields) for violation in error.violations]
    where = places(sorted({value[1] for value in found if value}))
    lines = []
    for violation, value in zip(error.violations, found, strict=True):
        if value is None:
            lines.append(f"{violation.field}: {violation.description}")
        else:
            name, row, inner = value
            shown = " ".join(one for one in (cell(name, row), violation.description) if one)
            lines.append(f"{where[row]}, column {quoted(name)}{inner and ', ' + inner}: {shown}")
    if error.omitted:
        lines.append(f"… and {error.omitted} more")
    return RowFileError("\n".join(lines))


def _value_of(path: str, fields: Sequence[Field]) -> tuple[str, int, str] | None:
    """Give the column, the row and the path within the value; None for a fault that is not one of a value."""
    for field in fields:
        found = re.fullmatch(re.escape(column_path(field.name)) + r"\[(\d+)\](.*)", path)
        if found:
            return field.name, int(found[1]), found[2].removeprefix(".")
    return None
