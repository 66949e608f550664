"""The life of the versions in use: workers that are started, fed, replaced, and let go."""

from __future__ import annotations

from prinz_enricher.scoring.runtime.version_pool import VersionPool

__all__ = ["VersionPool"]
