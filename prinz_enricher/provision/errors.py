"""What can go wrong before a model is loaded; no message holds credentials.

ProvisionError
├── Cancelled            the caller does not wait any more
├── CacheUnusable        a disk cache can't be used or written
├── DownloadFailed       the model can't be downloaded
├── RequirementsRefused  the model's requirements can't be read, or are not allowed
├── BuildFailed          the model's Python environment can't be built
└── LoaderForbidden      the module that would load the model is not allowed
"""

from __future__ import annotations


class ProvisionError(Exception):
    """A model can't be made ready; `may_pass` if the same may work later without a change of the model."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class Cancelled(ProvisionError):
    """The caller said, by its `cancelled`, that it does not wait any longer."""

    def __init__(self) -> None:
        super().__init__("it was cancelled", may_pass=True)


class CacheUnusable(ProvisionError):
    """A disk cache can't be used or written."""


class DownloadFailed(ProvisionError):
    """The model can't be downloaded."""


class RequirementsRefused(ProvisionError):
    """The model's requirements can't be read, or are not allowed."""


class BuildFailed(ProvisionError):
    """The model's Python environment can't be built."""


class LoaderForbidden(ProvisionError):
    """The module `loader`, which the MLmodel file names, is not allowed to load models."""

    def __init__(self, loader: str) -> None:
        super().__init__(f"models loaded by {loader[:200]} are not allowed")
        self.loader = loader
