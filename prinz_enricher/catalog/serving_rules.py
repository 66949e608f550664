"""What operators (by settings) and owners of models (by tags) say of serving, read from text.

Three things: which models are served (`Selection`), which version is the default (`parse_policy`), and how a version
is served (`ServingOptions`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prinz_enricher.registry.entities import RegisteredModel

TAG_PREFIX = "tag:"
_Rule = Callable[[RegisteredModel], bool]


class Selection:
    """Admits a model that some rule includes, and none excludes; raises ValueError if a rule is invalid.

    A rule is a pattern of names such as `fraud-*`, or `tag:key=pattern` for models with such a tag. In a pattern `*`
    stands for any text, `?` for one character and `[ab]` for one of those; case matters.
    """

    def __init__(self, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> None:
        self._include = [parse_rule(rule) for rule in include]
        self._exclude = [parse_rule(rule) for rule in exclude]

    def admits(self, model: RegisteredModel) -> bool:
        """Return whether a model is served."""
        return any(rule(model) for rule in self._include) and not any(rule(model) for rule in self._exclude)


def parse_rule(text: str) -> _Rule:
    """Return the predicate of one rule of a `Selection`; raises ValueError if it is invalid."""
    if text and not text.startswith(TAG_PREFIX):
        return lambda model: fnmatchcase(model.name, text)
    key, separator, pattern = text.removeprefix(TAG_PREFIX).partition("=")
    if not key or not separator:
        raise ValueError(f'invalid rule "{text}"; expected a name pattern or "tag:<key>=<pattern>"')
    return lambda model: key in model.tags and fnmatchcase(model.tags[key], pattern)


LATEST = "latest"
ALIAS_PREFIX = "alias:"
STAGE_PREFIX = "stage:"
VERSION_PREFIX = "version:"
_CHOICE = re.compile(r"latest|alias:.+|stage:(?ai:none|staging|production|archived)|version:[0-9]+", re.DOTALL)
DEFAULT_TAG = "prinz.default"
"""The tag of a registered model that holds its own policy."""
DEFAULT_POLICY: tuple[str, ...] = ("alias:champion", LATEST)
MAX_POLICY_CHARACTERS = 1000


class PolicyError(ValueError):
    """A policy is invalid; the text says why."""


def parse_policy(text: str) -> tuple[str, ...]:
    """Return the choices of a policy: which version is meant where a caller names neither version nor alias.

        policy  = choice {"," choice}
        choice  = "latest" | "alias:" name | "stage:" name | "version:" number

    The choices are tried in turn; an alias or a version that is not there, and a stage without a READY version, lead to
    the next one. Stages are MLflow's, in any case. An archived version is neither the latest nor in another stage.
    Raises PolicyError if the policy is invalid.
    """
    if len(text) > MAX_POLICY_CHARACTERS:
        raise PolicyError(f"it is longer than {MAX_POLICY_CHARACTERS} characters")
    choices = tuple(choice.strip() for choice in text.split(","))
    for choice in choices:
        if not is_choice(choice):
            raise PolicyError(
                f'invalid version policy "{choice[:80]}"; expected "latest", "alias:<name>", "stage:<name>" '
                '(None, Staging, Production, Archived) or "version:<number>"'
            )
    return choices


def is_choice(text: str) -> bool:
    """Return whether a text is a choice of a policy."""
    return _CHOICE.fullmatch(text) is not None


MAX_REPLICAS = 64
"""A registry can lie; the limit of all workers holds besides."""
ENVIRONMENT_TAG = "prinz.environment"


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What the tags of a version, or else of its model, say of how it is served; an invalid value counts as none.

    Attributes:
        batching: `prinz.batching`, `on` or `off`: whether rows of several callers share model calls; or empty.
        replicas: `prinz.replicas`: the number of workers; or 0.
        preload: `prinz.preload`, `true`: loaded from the start, and kept loaded.
        route: `prinz.route`, unchecked: `local`, or `remote:` and the name of an endpoint of the settings; or empty.
        observed: `prinz.outputs`, `observed`: whether outputs that were observed may take the place of those declared.
        environment: `prinz.environment`, `current`, `isolated` or `auto`: what it runs in; or empty.
        accelerate: `prinz.accelerate`, `onnx` or `off`: whether onnxruntime may compute for it; or empty.
    """

    batching: str = ""
    replicas: int = 0
    preload: bool = False
    route: str = ""
    observed: bool = False
    environment: str = ""
    accelerate: str = ""


NO_OPTIONS = ServingOptions()


def read_serving_options(version_tags: Mapping[str, str], model_tags: Mapping[str, str]) -> ServingOptions:
    """Read the tags of a version, and where they say nothing those of its model, but for `prinz.preload`."""

    def first(tag: str, accept: Callable[[str], bool] = bool) -> str:
        texts = (tags.get(tag, "").strip() for tags in (version_tags, model_tags))
        return next(filter(accept, texts), "")

    options = ServingOptions(
        batching=first("prinz.batching", lambda text: text.lower() in ("on", "off")).lower(),
        replicas=int(first("prinz.replicas", _is_replicas) or 0),
        preload=wants_preload(version_tags),
        route=first("prinz.route"),
        observed=first("prinz.outputs") == "observed",
        environment=first(ENVIRONMENT_TAG, lambda text: text.lower() in ("current", "isolated", "auto")).lower(),
        accelerate=first("prinz.accelerate", lambda text: text.lower() in ("onnx", "off")).lower(),
    )
    return NO_OPTIONS if options == NO_OPTIONS else options


def wants_preload(tags: Mapping[str, str]) -> bool:
    """Return whether tags ask for loading from the start."""
    return tags.get("prinz.preload", "").strip().lower() == "true"


def _is_replicas(text: str) -> bool:
    # No number of five digits is converted: Python refuses very long ones.
    return text.isascii() and text.isdecimal() and len(text) < 5 and 0 < int(text) <= MAX_REPLICAS
