"""A row of a model's input example, as a caller would send it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from prinz_enricher.batch import batch_from_rows
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import Signature

_MAX_EXAMPLE_BYTES = 4 << 20


def read_example(folder: Path, signature: Signature) -> pa.RecordBatch | None:
    """Return a row of the input example of a model in a folder; None where it has none that a caller could send."""
    try:
        # MLflow's names; the second has no form for requests, and is all that older models have.
        path = next(path for name in ("serving_", "") if (path := folder / f"{name}input_example.json").exists())
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_EXAMPLE_BYTES))
        return batch_from_rows(_rows(content, signature), signature.inputs).slice(0, 1)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration, InvalidInput):
        return None


def _rows(content: Any, signature: Signature) -> Any:
    """Return rows as `batch_from_rows` takes them, of what MLflow's scoring protocol takes."""
    names = [field.name for field in signature.inputs]
    split = content.get("dataframe_split", content if "data" in content else None)
    if split is not None:
        columns = [name for name in split.get("columns", names) if isinstance(name, str)] or names
        return [dict(zip(columns, row, strict=True)) for row in split["data"]]
    inputs = content["inputs"]
    if isinstance(inputs, Mapping):
        return {name: values if isinstance(values, list) else [values] for name, values in inputs.items()}
    return inputs if isinstance(inputs[0], Mapping) else {names[0]: inputs}
