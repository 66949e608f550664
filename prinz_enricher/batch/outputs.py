"""The outputs that a caller asks for."""

from __future__ import annotations

from collections.abc import Sequence

from prinz_enricher.batch.faults import Faults
from prinz_enricher.signature import Field


def select_outputs(fields: Sequence[Field], names: Sequence[str]) -> tuple[Field, ...]:
    """Pick outputs by name.

    Args:
        fields: All outputs of a signature.
        names: Those that are wanted; none for all.

    Returns:
        The wanted outputs, in the order in which they were named.

    Raises:
        InvalidInput: A name is none of an output, or is there twice; each such `outputs[i]` is told.
    """
    if not names:
        return tuple(fields)
    by_name = {field.name: field for field in fields}
    faults = Faults()
    picked: dict[str, Field] = {}
    for index, name in enumerate(names):
        if name not in by_name:
            faults.add(f"outputs[{index}]", "is no output of this model")
        elif name in picked:
            faults.add(f"outputs[{index}]", "is there twice")
        else:
            picked[name] = by_name[name]
    faults.raise_any()
    return tuple(picked.values())
