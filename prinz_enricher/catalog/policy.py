"""The default policy: which version is meant where a caller names neither version nor alias.

    policy  = choice {"," choice}
    choice  = "latest" | "alias:" name | "version:" number

The choices are tried in turn; an alias or a version that is not there leads to the next one.
"""

from __future__ import annotations

LATEST = "latest"
ALIAS_PREFIX = "alias:"
VERSION_PREFIX = "version:"

DEFAULT_TAG = "prinz.default"
"""The tag of a registered model that says its own policy."""

DEFAULT_POLICY: tuple[str, ...] = ("alias:champion", LATEST)
"""The policy where nobody says otherwise."""

MAX_CHARACTERS = 1000
"""How long a policy may be."""


class PolicyError(ValueError):
    """A policy can't be read; the text says why."""


def parse_policy(text: str) -> tuple[str, ...]:
    """Read a policy.

    Args:
        text: By the grammar of this module.

    Returns:
        The choices in turn.

    Raises:
        PolicyError: It can't be read.
    """
    if len(text) > MAX_CHARACTERS:
        raise PolicyError(f"it is longer than {MAX_CHARACTERS} characters")
    choices = tuple(choice.strip() for choice in text.split(","))
    for choice in choices:
        number = choice.removeprefix(VERSION_PREFIX)
        is_alias = choice.startswith(ALIAS_PREFIX) and choice != ALIAS_PREFIX
        is_version = number != choice and number.isascii() and number.isdecimal()
        if not (choice == LATEST or is_alias or is_version):
            raise PolicyError(f'"{choice[:80]}" is no policy: "latest", "alias:<name>" and "version:<number>" are')
    return choices
