"""Where a value of a nested array is in the batch: its path, written only for values that are refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.faults import Faults, property_step, quoted


class Place(ABC):
    """The place of an array's values."""

    @property
    @abstractmethod
    def whole(self) -> str:
        """The path of the array as a whole, for faults of its type."""

    @abstractmethod
    def at(self, index: int) -> str:
        """The path of one of its values."""

    def refuse(self, faults: Faults, wrong: npt.NDArray[np.bool_], description: str) -> None:
        """Note a fault for each value that is marked.

        Args:
            faults: Where they are collected.
            wrong: True for each refused value, shape (length of the array,).
            description: What is wrong with them.
        """
        indexes = np.flatnonzero(wrong)
        told = indexes[: max(faults.room, 0)]
        for index in told.tolist():
            faults.add(self.at(index), description)
        faults.count(len(indexes) - len(told))


class ColumnPlace(Place):
    """The rows of a column."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def whole(self) -> str:
        """The path of the array as a whole."""
        return self._path

    def at(self, index: int) -> str:
        """The path of one of its values."""
        return f"{self._path}[{index}]"


class ElementPlace(Place):
    """The elements of lists."""

    def __init__(self, parent: Place, offsets: npt.NDArray[np.int64]) -> None:
        self._parent = parent
        self._offsets = offsets

    @property
    def whole(self) -> str:
        """The path of the array as a whole."""
        return f"{self._parent.whole}[*]"

    def at(self, index: int) -> str:
        """The path of one of its values."""
        row = int(np.searchsorted(self._offsets, index, side="right")) - 1
        return f"{self._parent.at(row)}[{index - int(self._offsets[row])}]"


class EntryPlace(Place):
    """The values of maps."""

    def __init__(self, parent: Place, offsets: npt.NDArray[np.int64], keys: pa.Array | Sequence[str]) -> None:
        self._parent = parent
        self._offsets = offsets
        self._keys = keys

    @property
    def whole(self) -> str:
        """The path of the array as a whole."""
        return f"{self._parent.whole}[*]"

    def at(self, index: int) -> str:
        """The path of one of its values."""
        row = int(np.searchsorted(self._offsets, index, side="right")) - 1
        return f"{self._parent.at(row)}[{quoted(str(self._keys[index]))}]"


class PropertyPlace(Place):
    """A property of records."""

    def __init__(self, parent: Place, name: str) -> None:
        self._parent = parent
        self._step = property_step(name)

    @property
    def whole(self) -> str:
        """The path of the array as a whole."""
        return self._parent.whole + self._step

    def at(self, index: int) -> str:
        """The path of one of its values."""
        return self._parent.at(index) + self._step
