"""What requests say beside their bodies: options in the query, and how long a caller waits."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import InvalidRequest
from prinz_enricher.fronts.http.http_connection import HttpRequest


def options_of(request: HttpRequest, known: set[str]) -> dict[str, str]:
    """Return the query of a request; raises InvalidRequest for what is unknown, or there twice."""
    found = parse_qs(request.query.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=16)
    for name, values in found.items():
        if name not in known or len(values) > 1:
            raise InvalidRequest("query", f"has a key that is there twice, or none of {', '.join(sorted(known))}")
    return {name: values[0] for name, values in found.items()}


def view_of(options: dict[str, str]) -> Any:
    """Return how much of each model is wanted; raises InvalidRequest."""
    views = {"basic": pb.MODEL_VIEW_BASIC, "full": pb.MODEL_VIEW_FULL}
    view = views.get(options.get("view", "basic"))
    if view is None:
        raise InvalidRequest("view", "is neither basic nor full")
    return view


def timeout_of(request: HttpRequest) -> float:
    """Return the seconds that a caller waits, by its header; raises InvalidRequest."""
    text = request.headers.get(b"x-request-timeout")
    if text is None:
        return float("inf")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InvalidRequest("X-Request-Timeout", "is not a number of seconds above 0")
    return seconds
