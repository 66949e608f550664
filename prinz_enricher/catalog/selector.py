"""Which version a caller means: by number, by alias, or by the default policy."""

from __future__ import annotations

from collections.abc import Sequence

from prinz_enricher.catalog.policy import ALIAS_PREFIX, DEFAULT_POLICY, LATEST, STAGE_PREFIX, VERSION_PREFIX
from prinz_enricher.catalog.snapshot import NOT_READ, CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.errors import AliasNotFound, ModelLoadFailed, ModelLoading, ModelNotFound, VersionNotFound

RETRY_SECONDS = 2.0
"""After how long the signature of a version that was not read yet should be there."""


def resolve(
    snapshot: Snapshot,
    name: str,
    version: str | None = None,
    alias: str | None = None,
    policy: Sequence[str] = DEFAULT_POLICY,
) -> CatalogVersion:
    """Find the version that a caller means; only those that are READY can be meant.

    Args:
        snapshot: Where to look.
        name: The model's name.
        version: The version's number; exactly as it is listed.
        alias: An alias; not looked at where a version is given.
        policy: What is meant where neither is given, tried in turn; the model's own policy goes before it. An alias
            that exists decides, even where its version is not READY: another one than its owner chose is never taken
            in silence.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: There is no such version, or it is not READY.
        AliasNotFound: There is no such alias.
    """
    model = snapshot.models.get(name)
    if model is None:
        raise ModelNotFound(name)
    if version is None and alias is None:
        number = _default_number(model, policy)
    elif version is None:
        number = model.aliases.get(alias or "")
        if number is None:
            raise AliasNotFound(name, alias or "")
    else:
        number = version
    found = model.by_number.get(number) if number is not None else None
    if found is None or not found.ready:
        raise VersionNotFound(name, number or "")
    return found


def default_version(model: CatalogModel, policy: Sequence[str] = DEFAULT_POLICY) -> CatalogVersion | None:
    """Return the version that is meant where a caller names none; None where there is none that is READY."""
    number = _default_number(model, policy)
    found = model.by_number.get(number) if number is not None else None
    return found if found is not None and found.ready else None


def scorable(version: CatalogVersion) -> CatalogVersion:
    """Return a version that can be scored.

    Raises:
        ModelLoading: Its signature was not read yet, or can't be for a reason that may pass, which it tells.
        ModelLoadFailed: Its signature can't be read; a version without any signature can be scored.
    """
    if version.signature is None and version.pending:
        why = "" if version.fault == NOT_READ.fault else f"it {version.fault}"
        raise ModelLoading(version.name, version.version, RETRY_SECONDS, why)
    if version.signature is None:
        raise ModelLoadFailed(version.name, version.version, f"it {version.fault or 'was not read yet'}.")
    return version


def _default_number(model: CatalogModel, policy: Sequence[str]) -> str | None:
    for choice in model.policy or policy:
        if choice == LATEST or choice.startswith(STAGE_PREFIX):
            newest = model.latest_ready if choice == LATEST else model.latest_in(choice.removeprefix(STAGE_PREFIX))
            if newest is not None:
                return newest.version
        elif choice.startswith(VERSION_PREFIX):
            number = str(int(choice.removeprefix(VERSION_PREFIX)))
            if number in model.by_number:
                return number
        elif (pointed := model.aliases.get(choice.removeprefix(ALIAS_PREFIX))) is not None:
            return pointed
    return None
