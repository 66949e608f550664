"""What can go wrong before a model is loaded, each a ProvisionError; no message holds credentials."""


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
