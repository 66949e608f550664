"""Errors between a front and a worker: invalid frames, and the reasons why a worker could not score."""


class FrameError(Exception):
    """The other side sent something that is not a frame, or stopped in the middle of one."""


class FrameTooLarge(FrameError):
    """A frame to be sent exceeds the limits; nothing of it was sent."""


class WorkerFault(Exception):
    """An error whose message may be shown to the caller: it contains none of the caller's data."""

    kind = "model_error"


class InvalidRows(WorkerFault):
    """Rows fit the signature, but the model's libraries can't hold them or refuse them."""

    kind = "invalid_input"


class OutputDiffers(WorkerFault):
    """The model's answer is not what its signature declares."""

    kind = "output_mismatch"


class ValueMissing(OutputDiffers):
    """The answer lacks a value, or an answer, that every row must have; other rows may have one."""
