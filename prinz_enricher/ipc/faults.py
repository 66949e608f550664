"""What can be wrong between a front and a worker: frames that are none, and why a worker could not score."""

from __future__ import annotations


class FrameError(Exception):
    """The other side sent what is no frame, or ended in the middle of one."""


class FrameTooLarge(FrameError):
    """What was to be sent is larger than a frame may be; nothing of it was sent."""


class WorkerFault(Exception):
    """A fault that has a sentence for the caller, without the caller's data in it."""

    kind = "model_error"


class InvalidRows(WorkerFault):
    """Rows that fit the signature but that the model's libraries can't hold or refuse."""

    kind = "invalid_input"


class OutputDiffers(WorkerFault):
    """The model's answer is not what its signature declares."""

    kind = "output_mismatch"


class ValueMissing(OutputDiffers):
    """The answer lacks a value, or an answer, that a row must have: other rows may have one."""
