"""Soaks a service with each front for some time, and says whether it held."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import httpx
import numpy as np
import pyarrow as pa

from prinz_enricher.client import Client, ServiceError
from tests.conftest import find_port
from tests.soak import models
from tests.soak.callers import AsyncCaller, Caller
from tests.soak.disturbances import Certificates, Disturber, Upstream
from tests.soak.service import DEFAULT_FRONTS, Measures, Page, Service, running
from tests.support.cutting_proxy import CuttingProxy
from tests.support.deadline import wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.model_server import ModelServer
from tests.support.registry_writer import RegistryWriter

CALLERS: Final = 3
"""Threads that call each service, and one more with an event loop."""

WARM_UP: Final = 0.2
"""The part of the time after which what is held is compared: caches, arenas and threads are there by then."""

START_SECONDS: Final = 600.0
"""How long it may take until there is something to soak: that is not what is measured."""

MAX_SLOPE: Final = 1.0
"""MB a minute by which the memory of a service may grow after that."""

SHORT: Final = 20.0
"""MB by which the memory may grow in a time too short for a slope: what one large batch more or less takes."""

MAX_FILES: Final = 12
MAX_THREADS: Final = 6
"""How many more open files and threads there may be in the last fifth than in the first one after the warm-up."""

EXPECTED_ERRORS: Final = frozenset[str]()
"""Events of the log at level `error` that the disturbances bring about."""

_ROWS: Final = "prinz_enricher_rows_total"

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Verdict:
    """A line of the report: what was found, what is allowed, and whether it is."""

    what: str
    found: str
    allowed: str
    holds: bool


class Sampler:
    """A thread that measures the services twice a second, and scrapes them now and then."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        for turn in range(1 << 60):
            for service in self._services:
                with suppress(OSError, httpx.HTTPError):
                    if turn % 20 == 10:
                        service.series.append((time.monotonic(), service.scrape().series()))
                    service.measures.append((time.monotonic(), service.measure()))
            if self._ended.wait(0.5):
                return


@contextmanager
def soaked(folder: Path, fronts: Sequence[str], seed: int) -> Iterator[tuple[list[Service], Disturber]]:
    """Run a registry, a model server elsewhere, and a service with each front, all models loaded."""
    port = find_port()
    store = folder / "registry"
    store.mkdir()
    certificates = Certificates(folder)
    with ExitStack() as stack:
        server = stack.enter_context(MlflowServer(store, port, start_seconds=START_SECONDS))
        registry = stack.enter_context(RegistryWriter(server.url, server.database, server.artifacts))
        original = models.register_models(registry, folder)
        proxy = stack.enter_context(CuttingProxy(port, 0))
        elsewhere = stack.enter_context(ModelServer())
        upstream = Upstream(elsewhere)
        services = []
        for front in fronts:
            place = folder / front
            place.mkdir()
            pair, ca = certificates.pair, certificates.authority.file
            services.append(stack.enter_context(running(front, place, proxy.url, elsewhere.url, pair, ca)))
        for service in services:
            _load(service)
        yield services, Disturber(services, registry, proxy, upstream, certificates, original, seed)


def _load(service: Service) -> None:
    """Have all versions scored, so that all workers are there; what was counted until then is not compared."""
    chance = random.Random(0)  # noqa: S311 - no secret
    rows = {models.TEXTS: models.typed(1, chance), models.SHARED: models.typed(1, chance)}
    with service.client(coalesce=False) as client:
        for name in (f"{models.MOVING}/1", f"{models.MOVING}/2", *models.NAMES):
            wait_until(partial(_scores, client, name, rows.get(name, models.numbers(1, chance))), START_SECONDS)
    service.base = service.scrape()


def _scores(client: Client, name: str, rows: pa.RecordBatch) -> bool:
    try:
        client.score(name, rows)
    except ServiceError:
        return False
    return True


def soak(minutes: float, fronts: Sequence[str] = DEFAULT_FRONTS, seed: int = 0, say: Say = click.echo) -> bool:
    """Soak for some minutes, print what came of it, and return whether all held."""
    folder = Path(tempfile.mkdtemp(prefix="prinz-soak-"))
    end = 0.0
    holds = True
    with soaked(folder, fronts, seed) as (services, disturber):
        callers = [
            kind(service, seed * 100 + place * len(services) + number)
            for number, service in enumerate(services)
            for place, kind in enumerate([Caller] * CALLERS + [AsyncCaller])
        ]
        sampler = Sampler(services)
        began = time.monotonic()
        end = began + 60 * minutes
        say(f"{len(callers)} callers of {len(services)} services for {minutes:g} minutes; files are in {folder}")
        sampler.start()
        disturber.start()
        for caller in callers:
            caller.start()
        try:
            told: Counter[str] = Counter()
            while time.monotonic() < end and all(service.alive for service in services):
                time.sleep(0.2)
                for service in services:
                    for fault in service.ledger.faults[told[service.front] :]:
                        say(f"FAULT {fault}")
                        told[service.front] += 1
        finally:
            disturber.stop()
            for caller in callers:
                caller.stop()
            for caller in callers:
                caller.join()
            sampler.stop()
        for service in services:
            for fault in service.ledger.faults[told[service.front] :]:
                say(f"FAULT {fault}")
            verdicts = judge(service, began, end)
            holds = holds and all(one.holds for one in verdicts)
            report(service, verdicts, minutes, say)
    if holds:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"the services' logs: {folder}/*/log.jsonl")
    say("held" if holds else "FAILED")
    return holds


def judge(service: Service, began: float, end: float) -> list[Verdict]:
    """Compare what was found with what is allowed."""
    ledger = service.ledger
    verdicts = [
        Verdict("wrong answers", f"{ledger.wrong}", "0", not ledger.wrong),
        Verdict("unexpected reasons and other faults", f"{ledger.unexpected}", "0", not ledger.unexpected),
        Verdict("alive", f"{service.alive}", "True", service.alive),
    ]
    warm = began + WARM_UP * (end - began)
    measures = [(at, one) for at, one in service.measures if warm <= at <= end]
    if measures:
        verdicts += flatness(measures, [(at, n) for at, n in service.series if warm <= at <= end])
    if service.alive:
        differences = _settled_differences(service)
        verdicts.append(Verdict("/metrics and callers", "; ".join(differences) or "agree", "agree", not differences))
    errors = Counter(str(one["event"]) for one in service.log() if one["level"] in {"error", "critical"})
    unexpected = {event: count for event, count in errors.items() if event not in EXPECTED_ERRORS}
    verdicts.append(Verdict("errors in the log", f"{unexpected or 0}", "0", not unexpected))
    return verdicts


def flatness(measures: Sequence[tuple[float, Measures]], series: Sequence[tuple[float, int]]) -> list[Verdict]:
    """Compare the end of the time after the warm-up with its beginning."""
    minutes = np.array([at - measures[0][0] for at, _ in measures]) / 60
    memory = np.array([one.memory for _, one in measures])
    slope = float(np.polyfit(minutes, memory, 1)[0])
    allowed = max(MAX_SLOPE, SHORT / minutes[-1])
    span = f"{memory[0]:.0f} → {memory[-1]:.0f}, {memory.max():.0f} at most"
    found = [
        Verdict("memory: MB a minute", f"{slope:+.2f} ({span} MB)", f"< {allowed:.2f}", slope < allowed),
        _flat("open files", [one.files for _, one in measures], MAX_FILES),
        _flat("threads", [one.threads for _, one in measures], MAX_THREADS),
    ]
    return [*found, _flat("series", [count for _, count in series], 0)] if series else found


def _flat(what: str, values: Sequence[int], most: int) -> Verdict:
    part = max(1, len(values) // 5)
    first, last = median(values[:part]), median(values[-part:])
    return Verdict(
        what, f"{first:g} → {last:g}, {min(values)} to {max(values)}", f"{most} more at most", last - first <= most
    )


def _settled_differences(service: Service) -> list[str]:
    """Compare the metrics with what callers heard; the last answers are counted a moment after they are sent."""
    for _ in range(50):
        differences = differences_of(service, service.scrape())
        if not differences:
            break
        time.sleep(0.2)
    return differences


def differences_of(service: Service, page: Page) -> list[str]:
    """Return where a scrape says other than callers heard."""
    ledger, found = service.ledger, []
    counted = page.calls()
    counted.subtract(service.base.calls())
    for model in models.NAMES:
        doubt = ledger.doubtful[model]
        rows = int(page.sum(_ROWS, model=model) - service.base.sum(_ROWS, model=model))
        if not 0 <= rows - ledger.rows[model] <= ledger.doubtful_rows[model]:
            found.append(f"{rows} rows of {model} counted, {ledger.rows[model]} heard")
        gauges = ("prinz_enricher_queue_rows", "prinz_enricher_inflight_rows")
        found += [f"{name} of {model} is {left:g}" for name in gauges if (left := page.sum(name, model=model))]
        if model == models.SHARED:
            continue
        pairs = {pair for pair in (*counted, *ledger.heard) if pair[0] == model}
        found += [
            f"{pair}: {counted[pair]} counted, {ledger.heard[pair]} heard"
            for pair in sorted(pairs)
            if not 0 <= counted[pair] - ledger.heard[pair] <= doubt
        ]
        if sum(counted[pair] - ledger.heard[pair] for pair in pairs) > doubt:
            found.append(f"{model}: more calls counted than were made")
    if guests := sorted(name for name in page.models() if name.startswith(models.GUEST)):
        found.append(f"series of {guests} are left")
    for method in ("Score", "ScoreStream", "ListModels", "GetSignature"):
        started = page.sum("grpc_server_started_total", grpc_method=method)
        if (handled := page.sum("grpc_server_handled_total", grpc_method=method)) != started:
            found.append(f"{started - handled:g} calls of {method} are not over")
    if failures := page.sum("prinz_enricher_reload_failures_total"):
        found.append(f"{failures:g} new files were refused")
    return found


def report(service: Service, verdicts: Sequence[Verdict], minutes: float, say: Say) -> None:
    """Print what a service answered, what it went through, and the verdicts."""
    ledger = service.ledger
    calls, rows = ledger.kinds.total(), sum(ledger.rows.values())
    say(f"\n{service.front}: {calls} calls ({calls / minutes / 60:.0f} a second), {rows} rows answered")
    say("  disturbed by " + ", ".join(f"{what} ({count})" for what, count in sorted(ledger.disturbances.items())))
    outcomes: dict[str, list[str]] = {}
    for (how, outcome), count in sorted(ledger.kinds.items()):
        outcomes.setdefault(how, []).append(f"{outcome} {count}")
    for how, texts in outcomes.items():
        say(f"  {how:<16} {', '.join(texts)}")
    for (what, outcome), count in sorted(ledger.excused.items()):
        say(f"  allowed by {what}: {outcome} {count}")
    seconds, slowest = ledger.slowest
    say(f"  slowest: {seconds:.2f} s, {slowest}")
    for one in verdicts:
        say(f"  {'ok   ' if one.holds else 'FAULT'} {one.what:<36} {one.found} (allowed: {one.allowed})")
