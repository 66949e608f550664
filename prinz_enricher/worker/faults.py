"""Why a worker could not load or score, as it is told to the front."""

from __future__ import annotations


class WorkerFault(Exception):
    """A fault that has a sentence for the caller, without the caller's data in it."""

    kind = "model_error"


class InvalidRows(WorkerFault):
    """Rows that fit the signature but that the model's libraries can't hold or refuse."""

    kind = "invalid_input"


class OutputDiffers(WorkerFault):
    """The model's answer is not what its signature declares."""

    kind = "output_mismatch"
