"""The catalog as a caller sees it: models that it has no right to are not in lists, watches and their tokens."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from prinz_enricher.catalog import ChangeSet, Snapshot, Union, Watch
from prinz_enricher.errors import ResyncRequired
from prinz_enricher.security.access import AccessRules, Method
from prinz_enricher.security.principal import Principal

MAX_VIEWS = 128
"""Views of a snapshot that are kept, so that whoever pages through it does not have it made for each page."""

_KEY = os.urandom(32)
_NONCE_BYTES = 12
_POSITION_BYTES = 96
"""Positions are padded to this length: that of the number of revisions in them would show."""


@dataclass(frozen=True, slots=True)
class CatalogView:
    """What of the catalog a principal may list, or watch; all of it without access rules."""

    catalog: Union
    rules: AccessRules
    principal: Principal | None
    method: Method

    @property
    def caller(self) -> str:
        """What binds a token to the principal."""
        return "" if self.principal is None else repr((self.principal.name, self.principal.groups))

    @property
    def _watcher(self) -> str:
        """What binds the token of a watch: under other rules, what has not changed may not have been seen."""
        return self.rules.digest + self.caller

    def snapshot(self) -> Snapshot:
        """Return what is there now; raises RegistryUnavailable before the registry was read."""
        return self._narrow(self.catalog.snapshot())

    def find(self, revision: str) -> Snapshot | None:
        """Return what was there at a revision of the last minute; None where it is not known any more."""
        if not self.rules.restricted:
            return self.catalog.find(revision)
        views = map(self._narrow, reversed(self.catalog.recent()))
        return next((view for view in views if view.revision == revision), None)

    def watch(self, token: str, listener: Callable[[ChangeSet], None]) -> Watch:
        """Begin or resume a watch, as `Publisher.watch`; revisions that change nothing here are left out."""
        if not self.rules.restricted:
            return self.catalog.watch(token, listener)

        def receive(news: ChangeSet) -> None:
            seen = self._seen(news)
            if seen.changes:
                listener(seen)

        whole = self.catalog.watch(_unseal(token, self._watcher) if token else "", receive)
        current = self._narrow(whole.current)
        return replace(
            whole,
            snapshot=None if whole.snapshot is None else current,
            missed=tuple([seen for news in whole.missed if (seen := self._seen(news)).changes]),
            current=current,
        )

    def resume_token(self, position: str) -> str:
        """Return the token of a position that is given to the caller."""
        return _seal(position, self._watcher) if self.rules.restricted else position

    def _seen(self, news: ChangeSet) -> ChangeSet:
        return news._replace(changes=tuple([change for change in news.changes if self._may(change.name)]))

    def _may(self, model: str) -> bool:
        return self.rules.may(self.principal, self.method, model)

    def _narrow(self, snapshot: Snapshot) -> Snapshot:
        """Return the part of a snapshot that is seen; its revision is that of its own content."""
        if not self.rules.restricted:
            return snapshot
        views = snapshot.views
        key = (self.rules, self.principal, self.method)
        view = views.get(key)
        if view is None:
            models = {name: model for name, model in snapshot.models.items() if self._may(name)}
            content = hashlib.sha256(b"".join([model.fingerprint for model in models.values()]))
            revision = content.hexdigest()[:32]
            # Most callers see the same as some other one.
            view = views.get(revision) or Snapshot(revision, models)
            if len(views) >= MAX_VIEWS:
                views.clear()
            views[key] = views[revision] = view
        return view


def _seal(position: str, caller: str) -> str:
    """Return a position as a token that its caller alone can use, under the same rules, and nobody reads.

    How often the catalog has changed is in it, and so what others see.
    """
    # A service without access rules does not import what it needs.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_KEY).encrypt(nonce, position.ljust(_POSITION_BYTES).encode(), caller.encode())
    return base64.urlsafe_b64encode(nonce + sealed).decode()


def _unseal(token: str, caller: str) -> str:
    """Return the position of a token; raises ResyncRequired where it is another caller's, or of another process."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        opened = AESGCM(_KEY).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], caller.encode())
    except (InvalidTag, ValueError):
        raise ResyncRequired from None
    return opened.decode().rstrip()
