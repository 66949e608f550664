"""The routes of the HTTP API: which paths there are, what each takes, and in which form it has its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from prinz_enricher.fronts.http.problems import INVOCATIONS, NUSSKNACKER, PROBLEM


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Attributes:
        template: Its path, as OpenAPI and metrics have it.
        method: The one that it takes; HEAD goes with GET.
        does: What is done, by name.
        errors: The form of its errors.
        method_name: As the audit log has it.
        is_open: Whether anybody may ask.
    """

    template: str
    method: str
    does: str
    errors: str = PROBLEM
    method_name: str = "Score"
    is_open: bool = False

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Return the parts of a path by their names in the template; None for another path."""
        parts = self.template.split("/")[1:]
        if len(parts) != len(segments):
            return None
        found: dict[str, str] = {}
        for part, segment in zip(parts, segments, strict=True):
            if not part.startswith("{"):
                if part != segment:
                    return None
                continue
            name, _, ending = part[1:].partition("}")
            value = segment.removesuffix(ending)
            if not value or (ending and value == segment):
                return None
            found[name] = value
        return found


ROUTES: Final = (
    # Before the files beside it.
    Route("/console/activity", "GET", "activity", method_name="ListModels"),
    *(
        Route(path, "GET", "file", method_name="Document", is_open=True)
        for path in ("/", "/console/{file}", "/docs", "/docs/{file}", "/openapi.json")
    ),
    Route("/nussknacker/openapi.json", "GET", "document", NUSSKNACKER, method_name="Document"),
    *(
        Route(f"/nussknacker/v1/{kind}/{{name}}{alias}/{{digest}}", "POST", does, NUSSKNACKER)
        for kind, does in (("score", "nussknacker"), ("score-many", "nussknacker_many"))
        for alias in ("", "/{alias}")
    ),
    Route("/model/{name}/invocations", "POST", "invocations", INVOCATIONS),
    Route("/model/{name}/{version}/invocations", "POST", "invocations", INVOCATIONS),
    Route("/serving-endpoints/{name}/invocations", "POST", "invocations", INVOCATIONS),
    Route("/v1/models", "GET", "list", method_name="ListModels"),
    # Before the one without an ending.
    Route("/v1/models/{name}:score", "POST", "score"),
    Route("/v1/models/{name}/versions/{version}:score", "POST", "score"),
    Route("/v1/models/{name}/aliases/{alias}:score", "POST", "score"),
    Route("/v1/models/{name}", "GET", "get", method_name="ListModels"),
)

_BY_LENGTH: Final[dict[int, list[Route]]] = {}
for _route in ROUTES:
    _BY_LENGTH.setdefault(_route.template.count("/"), []).append(_route)


@lru_cache(maxsize=512)
def find_routes(path: bytes) -> Sequence[tuple[Route, dict[str, str]]]:
    """Return the routes of a path, with its decoded parts; of several methods, or none. Raises UnicodeDecodeError."""
    segments = [unquote_to_bytes(part).decode() for part in path.split(b"/")[1:]]
    tried = ((route, route.match(segments)) for route in _BY_LENGTH.get(len(segments), ()))
    return [(route, names) for route, names in tried if names is not None]


def errors_of(path: bytes) -> str:
    """Return the form of errors of whatever has no route."""
    return NUSSKNACKER if path.startswith(b"/nussknacker/") else PROBLEM
