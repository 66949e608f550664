"""The default policy: which version is meant where a caller names neither version nor alias.

    policy  = choice {"," choice}
    choice  = "latest" | "alias:" name | "stage:" name | "version:" number

The choices are tried in turn; an alias or a version that is not there, and a stage without a READY version, lead to the
next one. Stages are MLflow's, in any case. A version that is archived is neither the latest nor in another stage.
"""

from __future__ import annotations

LATEST = "latest"
ALIAS_PREFIX = "alias:"
STAGE_PREFIX = "stage:"
VERSION_PREFIX = "version:"

STAGES = ("None", "Staging", "Production", "Archived")
"""MLflow's stages, all of them."""

DEFAULT_TAG = "prinz.default"
"""The tag of a registered model that says its own policy."""

DEFAULT_POLICY: tuple[str, ...] = ("alias:champion", LATEST)
"""The policy where nobody says otherwise."""

CHOICES = f'"latest", "alias:<name>", "stage:<name>" ({", ".join(STAGES)}) or "version:<number>"'
"""What a policy may say, in words."""

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
        if not is_choice(choice):
            raise PolicyError(f'invalid version policy "{choice[:80]}"; expected {CHOICES}')
    return choices


def is_choice(text: str) -> bool:
    """Tell whether a text is a choice by the grammar of this module."""
    kind, colon, what = text.partition(":")
    match kind + colon:
        case "alias:":
            return bool(what)
        case "stage:":
            return what.lower() in map(str.lower, STAGES)
        case "version:":
            return what.isascii() and what.isdecimal()
    return text == LATEST
