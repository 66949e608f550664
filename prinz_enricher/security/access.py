"""What a principal may do with a model: the rules of `[[access]]`, indexed so that 10,000 cost little more than one."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from prinz_enricher.config import AccessRule
from prinz_enricher.errors import ModelForbidden, ModelNotFound
from prinz_enricher.security.principal import Principal, remember

Method = Literal["list", "describe", "score", "watch"]

_GROUP = "group:"
_WILDCARD = re.compile(r"[*?\[]")
_MAX_NAME = 1_024  # MLflow's names are shorter; longer ones, which callers make up, would fill the memory.


class AccessRules:
    """The rules of who may do what; without any, everything is allowed. They never change. From any thread.

    A pattern is one of fnmatch, in which case counts. A principal matches by its name; a pattern that begins with
    `group:` is compared with its groups alone, so that nobody gets a group's rights by a name.

    A set of rules is an integer with a bit for each. No model has a name of more than 1,024 characters.
    """

    def __init__(self, rules: Iterable[AccessRule]) -> None:
        self._names, self._groups, self._models = _PatternIndex(), _PatternIndex(), _PatternIndex()
        self._methods: dict[str, int] = dict.fromkeys(("list", "describe", "score", "watch"), 0)
        listed = tuple(rules)
        self.restricted = bool(listed)
        """Whether there are rules at all."""
        self.digest = hashlib.sha256(repr(listed).encode()).hexdigest()
        """What distinguishes them from others."""
        self.scorers: dict[str, frozenset[Principal | None]] = {}
        """Principals that may score a model, by its name, for who groups calls: gone with these rules."""
        for number, rule in enumerate(listed):
            bit = 1 << number
            for pattern in rule.principals:
                index = self._groups if pattern.startswith(_GROUP) else self._names
                index.add(pattern.removeprefix(_GROUP), bit)
            for pattern in rule.models:
                self._models.add(pattern, bit)
            for method in rule.methods:
                self._methods[method] |= bit
        self._of_principal: dict[Principal, int] = {}
        self._of_model: dict[str, int] = {}

    def may(self, principal: Principal | None, method: Method, model: str) -> bool:
        """Return whether a principal may do this with a model; None is a caller without a name."""
        if not self.restricted:
            return True
        if principal is None or len(model) > _MAX_NAME:
            return False
        of_principal = self._of_principal.get(principal)
        if of_principal is None:
            of_principal = self._names.find(principal.name)
            for group in principal.groups:
                of_principal |= self._groups.find(group)
            remember(self._of_principal, principal, of_principal)
        of_model = self._of_model.get(model)
        if of_model is None:
            of_model = self._models.find(model)
            remember(self._of_model, model, of_model)
        return of_principal & of_model & self._methods[method] != 0

    def check(self, principal: Principal | None, method: Method, model: str) -> None:
        """Raise ModelForbidden where the principal may list the model but not do this, ModelNotFound where neither."""
        if self.may(principal, method, model):
            return
        if self.may(principal, "list", model):
            raise ModelForbidden(model, method)
        raise ModelNotFound(model)


class _PatternIndex:
    """Finds the rules whose patterns match a text, by the pattern, or by what stands before its first wildcard."""

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        # What comes after a prefix: a compiled pattern, or None for any text.
        self._globs: dict[str, dict[re.Pattern[str] | None, int]] = {}
        self._lengths: list[int] = []

    def add(self, pattern: str, rules: int) -> None:
        prefix = _WILDCARD.split(pattern, maxsplit=1)[0]
        if prefix == pattern:
            self._exact[pattern] = self._exact.get(pattern, 0) | rules
            return
        rest = pattern[len(prefix) :]
        ends = self._globs.setdefault(prefix, {})
        end = None if rest == "*" else re.compile(fnmatch.translate(rest))
        ends[end] = ends.get(end, 0) | rules
        self._lengths = sorted({*self._lengths, len(prefix)})

    def find(self, text: str) -> int:
        rules = self._exact.get(text, 0)
        for length in self._lengths:
            if length > len(text):
                break
            for end, those in self._globs.get(text[:length], {}).items():
                if end is None or end.match(text, length):
                    rules |= those
        return rules
