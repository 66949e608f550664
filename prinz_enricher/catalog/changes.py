"""What differs between two snapshots, model by model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from prinz_enricher.catalog.snapshot import CatalogModel, Snapshot


class Kind(StrEnum):
    """What happened to a model. One that was renamed is removed and added."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One model's change.

    Attributes:
        kind: What happened.
        name: The model's name.
        model: As it is now; None where it is gone.
    """

    kind: Kind
    name: str
    model: CatalogModel | None = None


def diff(old: Snapshot | None, new: Snapshot) -> tuple[Change, ...]:
    """Tell what changed from one snapshot to the next.

    Args:
        old: None where there was none, so that all is added.
        new: What there is now.

    Returns:
        First what is removed, so that a renamed model is never there twice, then what was added or changed; each by
        name.
    """
    before = {} if old is None else old.models
    changes = [Change(Kind.REMOVED, name) for name in before if name not in new.models]
    for name, model in new.models.items():
        former = before.get(name)
        if former is None:
            changes.append(Change(Kind.ADDED, name, model))
        elif former is not model and former.fingerprint != model.fingerprint:
            changes.append(Change(Kind.CHANGED, name, model))
    return tuple(changes)
