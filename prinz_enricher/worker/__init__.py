"""What runs inside a model's own interpreter: it loads one model and scores record batches sent over a socket.

Imports nothing of the rest of the package, so that this folder alone can be put into a model's environment. The front
imports `frames` only; the other modules need mlflow.
"""

from __future__ import annotations

from .frames import (
    BatchReader,
    BatchWriter,
    Frame,
    FrameError,
    FrameSocket,
    Kind,
    Limits,
    decode_value,
    encode_value,
)

__all__ = [
    "BatchReader",
    "BatchWriter",
    "Frame",
    "FrameError",
    "FrameSocket",
    "Kind",
    "Limits",
    "decode_value",
    "encode_value",
]
