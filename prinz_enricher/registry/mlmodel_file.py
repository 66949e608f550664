"""Where a version's MLmodel file is, and what it was when it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prinz_enricher.registry.transport import QueryParams


@dataclass(frozen=True, slots=True)
class MlmodelPlace:
    """Where our server hands out an MLmodel file.

    Attributes:
        path: Of the request.
        params: Of its query.
        uri: The folder of it, as the registry says, without our server's own host; empty in a Unity Catalog.
        otherwise: Where it is if it is not here; None where it is nowhere else.
    """

    path: str
    params: QueryParams
    uri: str = ""
    otherwise: MlmodelPlace | None = None


@dataclass(frozen=True, slots=True)
class MlmodelFile:
    """An MLmodel file as it was at one moment.

    Attributes:
        entries: Its top-level entries; None where it is as it was.
        digest: A hash of its bytes.
        validator: What asks the server whether it has changed since; None where it gave nothing to ask by.
    """

    entries: Mapping[str, object] | None
    digest: bytes
    validator: tuple[str, str] | None
