"""The numpy dtype of an Arrow type, without pandas, which `DataType.to_pandas_dtype` imports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

_DTYPES: dict[pa.DataType, np.dtype[Any]] = {
    pa.int8(): np.dtype(np.int8),
    pa.int16(): np.dtype(np.int16),
    pa.int32(): np.dtype(np.int32),
    pa.int64(): np.dtype(np.int64),
    pa.uint8(): np.dtype(np.uint8),
    pa.uint16(): np.dtype(np.uint16),
    pa.uint32(): np.dtype(np.uint32),
    pa.uint64(): np.dtype(np.uint64),
    pa.float16(): np.dtype(np.float16),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def numpy_dtype(type: pa.DataType) -> np.dtype[Any]:
    """Return the dtype of a number type; raises KeyError for any other."""
    return _DTYPES[type]
