"""Where each version is scored: by workers here, or by a model server elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prinz_enricher.catalog import CatalogVersion
from prinz_enricher.scoring.routing import LOCAL

_REMOTE = "remote:"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a version is scored.

    Attributes:
        endpoint: The endpoint of the settings; `LOCAL` for workers here.
        fault: Why it can be scored nowhere, as a sentence without its subject; empty where all is well.
    """

    endpoint: str = LOCAL
    fault: str = ""


_HERE = Route()


class Routes:
    """Chooses by the rules of the settings, else by the owner's tag.

    The operator's rules come first: a registry can lie, and a tag names an endpoint of the settings, never a URL.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        """Take the rules.

        Args:
            rules: For each endpoint, by its name, the patterns of the names of models that are scored there.
        """
        self._rules = {endpoint: tuple(patterns) for endpoint, patterns in rules.items()}

    def of(self, version: CatalogVersion) -> Route:
        """Tell where a version is scored."""
        for endpoint, patterns in self._rules.items():
            if any(fnmatchcase(version.name, pattern) for pattern in patterns):
                return Route(endpoint)
        wish = version.wishes.route
        if not wish or wish == "local":
            return _HERE
        endpoint = wish.removeprefix(_REMOTE).strip()
        if wish.startswith(_REMOTE) and endpoint in self._rules:
            return Route(endpoint)
        return Route(fault=f'has a tag prinz.route "{wish[:100]}", which is no endpoint of this service')
