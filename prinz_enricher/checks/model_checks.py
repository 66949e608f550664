"""Checks of models: whether their files can be read, what environments they need, and a score of each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from operator import itemgetter
from queue import SimpleQueue

import pyarrow as pa

from prinz_enricher.application import open_pool
from prinz_enricher.batch import decode_params
from prinz_enricher.catalog import CatalogVersion
from prinz_enricher.checks.findings import Check, Finding, Level, Outcomes, run_checks
from prinz_enricher.checks.input_example import read_example
from prinz_enricher.config import Settings
from prinz_enricher.errors import EnricherError, LoaderNotAllowed
from prinz_enricher.provision.environments import EnvironmentPlan
from prinz_enricher.scoring.ports import Job, ScoreResult, Target, WorkerState
from prinz_enricher.scoring.routing import LOCAL
from prinz_enricher.service.provisioner import Provisioner
from prinz_enricher.service.registries import Registries
from prinz_enricher.service.targets import Targets
from prinz_enricher.signature.arrow import input_schema
from prinz_enricher.telemetry.series import Series
from prinz_enricher.worker.trial import made_batch

_OWN = "the service's own"
_POLL_SECONDS = 0.05
_MOST_NAMES = 3
_AT_ONCE = 4
_ENDS = (WorkerState.AVAILABLE, WorkerState.FAILED)


class ModelChecks:
    """Checks the default versions of models whose registries were read; `close` ends their workers.

    All ends at the deadline, by `time.monotonic()`. Raises AccessError or ProvisionError as a service does.
    """

    def __init__(self, settings: Settings, registries: Registries, deadline: float) -> None:
        self._catalog = registries.catalog
        self._deadline = deadline
        self._provisioner = Provisioner(registries, settings.cache, settings.workers)
        # A service may run beside it, and needs its memory.
        few = settings.scoring.model_copy(update={"max_workers": min(_AT_ONCE, settings.scoring.max_workers)})
        self._at_once = few.max_workers
        pooled = settings.model_copy(update={"scoring": few})
        self._pool = open_pool(pooled, registries, lambda: None, Series())
        self._targets = Targets(registries.catalog, self._pool, settings)

    def close(self) -> None:
        """End the workers."""
        self._pool.close(grace=0.0)

    def run(self, patterns: Sequence[str], *, score: bool) -> Iterator[Finding]:
        """Yield the findings on models of these names: of their files, their environments, and a score of each."""
        models = self._catalog.snapshot().models
        matching = {pattern: {name for name in models if fnmatchcase(name, pattern)} for pattern in patterns}
        for pattern in [pattern for pattern, names in matching.items() if not names]:
            yield Finding("warn", "model", pattern, "there is no such model, or registry.include leaves it out")
        names = [name for name in models if any(name in some for some in matching.values())]
        defaults = [(name, self._targets.default_version(models[name])) for name in names]
        described: list[tuple[str, str, list[EnvironmentPlan | None]]] = []

        def describe(version: CatalogVersion) -> Outcomes:
            target = self._targets.find(version)
            if target is not None and target.route == LOCAL:
                described.append((version.name, *self._provisioner.describe(target)))
            return ()

        files = [Check("files", _name(one), partial(describe, one)) for _, one in defaults if one is not None]
        yield from run_checks(files, self._deadline, 8)
        stores: dict[str, list[str]] = defaultdict(list)
        environments: dict[EnvironmentPlan | None, list[str]] = defaultdict(list)
        for name, store, plans in sorted(described, key=itemgetter(0)):
            stores[store].append(name)
            for plan in plans:
                environments[plan].append(name)
        for store, names in sorted(stores.items()):
            if store:
                yield Finding("ok", "store", store, f"the files of {_listed(names)} can be read")
        checks = [
            Check("environment", f"Python {plan.python}" if plan else _OWN, partial(self._environment, plan, names))
            for plan, names in environments.items()
        ]
        yield from run_checks(checks, self._deadline)
        scores = [
            Check("model", name if version is None else _name(version), partial(self._model, version, score=score))
            for name, version in defaults
        ]
        yield from run_checks(scores, self._deadline, self._at_once)

    def _environment(self, plan: EnvironmentPlan | None, names: list[str]) -> Outcomes:
        if plan is None:
            yield "ok", f"for {_listed(names)}"
        elif not self._provisioner.environments.can_build(plan):
            yield "ok", f"is built, for {_listed(names)}"
        else:
            lacking = f": {_OWN} lacks {_listed(plan.lacking)}" if plan.lacking else ""
            yield "ok", f"is to be built, for {_listed(names)}{lacking}"

    def _model(self, version: CatalogVersion | None, *, score: bool) -> Outcomes:
        if version is None:
            yield "warn", "has no READY version that a call without a version means; see its tag prinz.default"
            return
        try:
            target = self._targets.of(version)
        except LoaderNotAllowed as error:
            # So the operator wants it.
            yield "warn", error.message
            return
        if not score:
            return
        outcome = self._score(target)
        if outcome[0] == "FAIL" and target.observe:
            # Its outputs may have been observed, which replace those that it declares.
            next(one for one in self._catalog.members if one.name == target.registry_name).catalog.refresh()
            observed = self._targets.of(self._catalog.snapshot().models[version.name].by_number[version.version])
            outcome = outcome if observed.key == target.key else self._score(observed)
        yield outcome

    def _score(self, target: Target) -> tuple[Level, str]:
        began = time.monotonic()
        # By one worker, whatever its owner wishes.
        target = replace(target, replicas=1)
        self._pool.load(target)
        while (status := self._pool.status(target)).state not in _ENDS and time.monotonic() < self._deadline:
            time.sleep(_POLL_SECONDS)
            # Again, where there was no room.
            self._pool.load(target)
        if status.state is not WorkerState.AVAILABLE:
            return "FAIL", f"can't be loaded: {status.message}"
        loaded = f"loaded in {time.monotonic() - began:.1f} s" + (f"; {status.message}" if status.message else "")
        rows, origin = None, "its input example"
        if target.route == LOCAL:
            with closing(self._provisioner(target, lambda: False)) as provisions:
                rows = read_example(provisions.model, target.signature)
        has_example = rows is not None
        if rows is None and (made := made_batch(input_schema(target.signature))) is not None:
            rows, origin = made.slice(0, 1), "a row made from its signature"
        outcome = None if rows is None else self._answer(target, rows)
        if isinstance(outcome, ScoreResult):
            return "ok", f"{origin} was scored in {outcome.compute * 1000:.3g} ms, {loaded}"
        if has_example:
            return "FAIL", f"{origin} is refused: {outcome}"
        refused = "" if outcome is None else f" (a made row is refused: {outcome})"
        return "warn", f"no example: not scored{refused}, {loaded}; log it with an input example"

    def _answer(self, target: Target, rows: pa.RecordBatch) -> ScoreResult | EnricherError:
        answers: SimpleQueue[ScoreResult | EnricherError] = SimpleQueue()
        self._pool.submit(Job(target, rows, decode_params({}, target.signature), self._deadline, answers.put))
        return answers.get()


def _name(version: CatalogVersion) -> str:
    return f"{version.name}/{version.version}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(sorted(names)[:_MOST_NAMES]) + more
