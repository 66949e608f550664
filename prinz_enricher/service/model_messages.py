"""Models as they go over the wire, kept while neither the model nor the state of its workers changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from prinz_enricher.catalog import CatalogModel, CatalogVersion
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.scoring import Status, Target
from prinz_enricher.service.views import model_message

MAX_BYTES = 32 * 1024 * 1024
"""Bytes that are kept at most; the models asked for longest ago go first."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A model as it was written.

    Attributes:
        model: The model.
        targets: What the pool needs to know of each version; None for one that can't be scored.
        statuses: What the pool said of each target.
        content: What was written.
    """

    model: CatalogModel
    targets: tuple[Target | None, ...]
    statuses: tuple[Status | None, ...]
    content: bytes


class ModelMessages:
    """Writes models, and what was written once it only compares.

    Unchanged models are the same objects from one snapshot to the next, so that identity tells whether one changed;
    what the workers do is asked each time.
    """

    def __init__(
        self,
        default_version: Callable[[CatalogModel], CatalogVersion | None],
        target: Callable[[CatalogVersion], Target | None],
        status: Callable[[Target], Status],
        state: Callable[[CatalogVersion, Status | None], Status],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Keep nothing yet.

        Args:
            default_version: Tells what a ModelRef without a selector means; depends on the model alone.
            target: Tells what the pool needs to know of a version; depends on the version alone.
            status: Tells what the pool does with a target.
            state: Tells where a version is in its life, from that; depends on nothing else that changes.
            max_bytes: How much is kept.
        """
        self._default_version = default_version
        self._target = target
        self._status = status
        self._state = state
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, bool], _Kept] = OrderedDict()
        self._lock = Lock()

    def get(self, model: CatalogModel, *, full: bool) -> bytes:
        """Return a ListModelsResponse that has this model and nothing else.

        Args:
            model: The model.
            full: Whether signatures are wanted too.
        """
        key = (model.name, full)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is not None and kept.model is model:
            targets = kept.targets
        else:
            kept, targets = None, tuple(self._target(version) for version in model.versions)
        status = self._status
        statuses = tuple([None if target is None else status(target) for target in targets])
        if kept is not None and kept.statuses == statuses:
            return kept.content
        told = dict(zip(model.by_number, statuses, strict=True))
        message = model_message(
            model,
            self._default_version(model),
            lambda version: self._state(version, told[version.version]),
            full=full,
        )
        content = pb.ListModelsResponse(models=[message]).SerializeToString()
        self._keep(key, _Kept(model, targets, statuses, content))
        return content

    def _keep(self, key: tuple[str, bool], new: _Kept) -> None:
        with self._lock:
            former = self._kept.pop(key, None)
            self._bytes += len(new.content) - (len(former.content) if former else 0)
            self._kept[key] = new
            while self._bytes > self._max_bytes:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.content)
