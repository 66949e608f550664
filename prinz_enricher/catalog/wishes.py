"""What the owner of a model wishes of how it is served, told by tags of a version or of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BATCHING_TAG = "prinz.batching"
"""`on` or `off`: whether rows of several callers share model calls."""

REPLICAS_TAG = "prinz.replicas"
"""How many workers there are."""

PRELOAD_TAG = "prinz.preload"
"""`true`: loaded from the start, and kept loaded."""

ROUTE_TAG = "prinz.route"
"""`local`, or `remote:` and the name of an endpoint of the settings: where it is scored."""

OUTPUTS_TAG = "prinz.outputs"
"""`observed`: where a model's answers are not what it declares, the outputs that were observed are served."""

MOST_REPLICAS = 64
"""A registry can lie; the limit of all workers holds besides."""

ENVIRONMENT_TAG = "prinz.environment"
"""`current`, `isolated` or `auto`: what it runs in, where the operator lets tags say so."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What tags say; a value that is none counts as if it were not there.

    Attributes:
        batching: `on`, `off`, or empty.
        replicas: The number of workers; 0 where that is not said.
        preload: Whether it is to be loaded from the start.
        route: Where it is to be scored, as its owner wrote it; empty where that is not said.
        observed: Whether outputs that were observed may take the place of those declared.
        environment: `current`, `isolated`, `auto`, or empty.
    """

    batching: str = ""
    replicas: int = 0
    preload: bool = False
    route: str = ""
    observed: bool = False
    environment: str = ""


NO_WISHES = Wishes()


def read_wishes(version_tags: Mapping[str, str], model_tags: Mapping[str, str]) -> Wishes:
    """Read the tags of a version; what they don't say, those of its model do.

    A model's `prinz.preload` is for its default version, and not looked at here.
    """
    wishes = Wishes(
        next(filter(None, (_batching(tags) for tags in (version_tags, model_tags))), ""),
        next(filter(None, (_replicas(tags) for tags in (version_tags, model_tags))), 0),
        wants_preload(version_tags),
        next(filter(None, (tags.get(ROUTE_TAG, "").strip() for tags in (version_tags, model_tags))), ""),
        next(filter(None, (tags.get(OUTPUTS_TAG, "").strip() for tags in (version_tags, model_tags))), "")
        == "observed",
        next(filter(None, (_environment(tags) for tags in (version_tags, model_tags))), ""),
    )
    return NO_WISHES if wishes == NO_WISHES else wishes


def wants_preload(tags: Mapping[str, str]) -> bool:
    """Tell whether tags ask for loading from the start."""
    return tags.get(PRELOAD_TAG, "").strip().lower() == "true"


def _batching(tags: Mapping[str, str]) -> str:
    told = tags.get(BATCHING_TAG, "").strip().lower()
    return told if told in ("on", "off") else ""


def _environment(tags: Mapping[str, str]) -> str:
    told = tags.get(ENVIRONMENT_TAG, "").strip().lower()
    return told if told in ("current", "isolated", "auto") else ""


def _replicas(tags: Mapping[str, str]) -> int:
    told = tags.get(REPLICAS_TAG, "").strip()
    known = told.isascii() and told.isdecimal() and len(told) < 5
    return int(told) if known and int(told) <= MOST_REPLICAS else 0
