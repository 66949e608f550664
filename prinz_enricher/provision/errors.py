"""What can go wrong before a model is loaded.

ProvisionError
├── Cancelled            nobody waits for it any more
├── ShelfFault           a cache can't be used or written
├── FetchFailed          the model could not be downloaded
├── RequirementsRefused  what the model says that it needs can't be read, or is not allowed
├── BuildFailed          the model's Python environment could not be built
└── LoaderForbidden      the model is loaded by code that is not allowed

No message holds credentials.
"""

from __future__ import annotations


class ProvisionError(Exception):
    """A model can't be made ready; the message says why in one sentence.

    Attributes:
        may_pass: Whether the same may work later, with nothing changed about the model.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class Cancelled(ProvisionError):
    """The caller said, by its `cancelled`, that it does not wait any longer."""

    def __init__(self) -> None:
        super().__init__("it was cancelled", may_pass=True)


class ShelfFault(ProvisionError):
    """A cache can't be used or written."""


class FetchFailed(ProvisionError):
    """The model could not be downloaded."""


class RequirementsRefused(ProvisionError):
    """What the model says that it needs can't be read, or is not allowed."""


class BuildFailed(ProvisionError):
    """The model's Python environment could not be built."""


class LoaderForbidden(ProvisionError):
    """The model is loaded by code that is not allowed.

    Attributes:
        loader: The module that its MLmodel file names.
    """

    def __init__(self, loader: str) -> None:
        super().__init__(f"models loaded by {loader[:200]} are not allowed")
        self.loader = loader
