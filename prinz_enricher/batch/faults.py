"""The faults of a batch, collected: the first hundred are told, all are counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from prinz_enricher.errors import MAX_VIOLATIONS, InvalidInput, Violation

MAX_NAME: Final = 200
"""How many characters of a caller's name are repeated in a path."""

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Step = str | int
"""One step of a path: a property's or map key's name, or an element's index."""


class Faults:
    """The faults found so far.

    Attributes:
        violations: The first `MAX_VIOLATIONS` of them.
        omitted: How many more there are.
    """

    __slots__ = ("omitted", "violations")

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.omitted = 0

    def __bool__(self) -> bool:
        return bool(self.violations)

    @property
    def room(self) -> int:
        """How many more faults will be told rather than counted."""
        return MAX_VIOLATIONS - len(self.violations)

    def add(self, field: str, description: str) -> None:
        """Note a fault.

        Args:
            field: Where, such as `columns["alcohol"][17]`.
            description: What is wrong and what is wanted, without the caller's value.
        """
        if self.room > 0:
            self.violations.append(Violation(field, description))
        else:
            self.omitted += 1

    def count(self, more: int) -> None:
        """Note faults that are not told, since there is no more room."""
        self.omitted += more

    def raise_any(self) -> None:
        """End here if there are faults.

        Raises:
            InvalidInput: With all of them.
        """
        if self.violations:
            raise InvalidInput(self.violations, omitted=self.omitted)


def refusal(field: str, description: str) -> InvalidInput:
    """Make the error of a single fault."""
    return InvalidInput([Violation(field, description)])


def quoted(name: str) -> str:
    """Write a name as a path holds it: in quotes, escaped as in JSON, cut where it is very long."""
    return json.dumps(name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…", ensure_ascii=not name.isprintable())


def column_path(name: str) -> str:
    """Write the path of a column: `columns["alcohol"]`."""
    return f"columns[{quoted(name)}]"


def property_step(name: str) -> str:
    """Write the step to a property: `.age`, or `["first name"]` where the name is not plain."""
    return f".{name}" if len(name) <= MAX_NAME and _PLAIN.fullmatch(name) else f"[{quoted(name)}]"


def joined(base: str, steps: Sequence[Step] | Iterable[Step]) -> str:
    """Write a path: text steps are written already, whole numbers are indexes."""
    return base + "".join(step if isinstance(step, str) else f"[{step}]" for step in steps)
