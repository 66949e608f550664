"""Which models are served: rules by name and by tag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from prinz_enricher.registry.entities import RegisteredModel

TAG_PREFIX = "tag:"

EVERYTHING: tuple[str, ...] = ("*",)

_Rule = Callable[[RegisteredModel], bool]


class Selection:
    """Lets a model through that some rule includes, and none excludes.

    A rule is a pattern of names such as `fraud-*`, or `tag:key=pattern` for models with such a tag. In a pattern `*`
    stands for any text, `?` for one character and `[ab]` for one of those; upper and lower case differ.
    """

    def __init__(self, include: Sequence[str] = EVERYTHING, exclude: Sequence[str] = ()) -> None:
        """Take the rules.

        Args:
            include: Rules of which a model must fit one.
            exclude: Rules of which a model must fit none.

        Raises:
            ValueError: One is no rule.
        """
        self._include = [read_rule(rule) for rule in include]
        self._exclude = [read_rule(rule) for rule in exclude]

    def admits(self, model: RegisteredModel) -> bool:
        """Tell whether a model is served."""
        return any(rule(model) for rule in self._include) and not any(rule(model) for rule in self._exclude)


def read_rule(text: str) -> _Rule:
    """Read one rule.

    Raises:
        ValueError: It is none; the text says why.
    """
    if not text:
        raise ValueError("an empty rule fits no model; leave it out")
    if not text.startswith(TAG_PREFIX):
        return lambda model: fnmatchcase(model.name, text)
    key, separator, pattern = text.removeprefix(TAG_PREFIX).partition("=")
    if not key or not separator:
        raise ValueError(f'"{text}" is no rule: a rule by tag is tag:<key>=<pattern>')
    return lambda model: key in model.tags and fnmatchcase(model.tags[key], pattern)
