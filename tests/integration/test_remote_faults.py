"""What befalls real model servers and the nginx before them costs no call that has time left, and changes no answer."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from tests.support.cutting_proxy import CuttingProxy
from tests.support.deadline import wait_until
from tests.support.nginx import Nginx
from tests.support.own_service import own_service
from tests.support.served_models import ServedModel, served_models

pytestmark = pytest.mark.slow

WINE = "MLF-ElasticnetWineModel-1"
CALLERS = 32
SECONDS = 10.0
"""That each call has."""

MOST_REQUESTS = 1.3
"""Requests for each one that was answered."""

_RULES = """
split_clients $request_id $is_lucky {{
  95% 1;
  *   0;
}}
upstream first {{ server {first}; keepalive 16; keepalive_timeout 4s; }}
upstream second {{ server {second}; keepalive 16; keepalive_timeout 4s; }}
upstream both {{ server {first}; server {second}; keepalive 16; keepalive_timeout 4s; }}
server {{
  listen 127.0.0.1:@PORT@;
  location = /a/{wine}/invocations {{ proxy_pass http://first/invocations; }}
  location = /b/{wine}/invocations {{ proxy_pass http://second/invocations; }}
  location = /both/{wine}/invocations {{ proxy_read_timeout 1s; proxy_pass http://both/invocations; }}
  location = /unlucky/{wine}/invocations {{
    if ($is_lucky = 0) {{ return 503; }}
    proxy_pass http://both/invocations;
  }}
}}
"""


@dataclass(frozen=True)
class Farm:
    """Two replicas of a model, and nginx before them.

    Attributes:
        nginx: Has each replica under a base URL of its own, `/a` and `/b`, and shares requests out under `/both`.
        replicas: The model servers.
        registry: The registry's URL.
        rows: Rows of the model.
        scores: Theirs, by the model server alone.
    """

    nginx: Nginx
    replicas: list[ServedModel]
    registry: str
    rows: list[dict[str, float]]
    scores: list[float]

    @contextmanager
    def callers(self, *bases: str, **keys: object) -> Iterator[Callers]:
        """Run a service before such base URLs, and callers; see that no call fails, and how many requests came."""
        urls = [base if base.startswith("http") else f"{self.nginx.url}{base}" for base in bases]
        endpoint = {"urls": urls, "convention": ["prinz"], "models": ["*"], "timeout": 2.0, **keys}
        with own_service(self.registry, registry={"include": [WINE]}, endpoints={"farm": endpoint}) as service:
            with Client(service.address, timeout=SECONDS) as client:
                client.score(WINE, self.rows[:1])
            before = len(self.nginx.seen())
            callers = Callers(service.address, self.rows, self.scores)
            with callers.calling():
                callers.more()
                yield callers
                callers.more()
        assert callers.faults == []
        requests = self.nginx.seen()[before:]
        assert len(requests) <= MOST_REQUESTS * requests.count(200)
        # Or else nothing would be shown of how calls share requests.
        assert callers.answers > 2 * len(requests)


class Callers:
    """Threads that score without pause, and what came of it."""

    def __init__(self, address: str, rows: list[dict[str, float]], scores: list[float]) -> None:
        self.answers = 0
        self.faults: list[str] = []
        self._address = address
        self._rows = rows
        self._scores = scores
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def call(self, caller: int) -> None:
        """Score one row after the other until told to stop."""
        chance = random.Random(caller)  # noqa: S311 - no secret
        with Client(self._address, timeout=SECONDS) as client:
            while not self._stop.is_set():
                which = chance.randrange(len(self._rows))
                began = time.monotonic()
                try:
                    (row,) = client.score(WINE, [self._rows[which]]).to_rows()
                except Exception as error:  # noqa: BLE001 - any is what must not be
                    self.faults.append(f"after {time.monotonic() - began:.2f} s: {type(error).__name__}: {error}")
                    return
                # A matrix product may round the last bit otherwise where rows share it.
                if not math.isclose(row["output_0"], self._scores[which], rel_tol=1e-12):
                    self.faults.append(f"{row} for {self._scores[which]}")
                    return
                with self._lock:
                    self.answers += 1

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Have them score while the test does something."""
        with ThreadPoolExecutor(CALLERS) as threads:
            calls = [threads.submit(self.call, caller) for caller in range(CALLERS)]
            try:
                yield
            finally:
                self._stop.set()
            for call in calls:
                call.result()

    def more(self, each: int = 10) -> None:
        """Wait for so many more answers for each caller."""
        before = self.answers
        wait_until(lambda: bool(self.faults) or self.answers > before + each * CALLERS, 60.0)


@pytest.fixture(scope="module")
def farm(sample_registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Two replicas of a wine model, and nginx before them."""
    folder = tmp_path_factory.mktemp("faults")
    chance = random.Random(0)  # noqa: S311 - no secret
    rows = [{name: chance.uniform(-300, 300) for name in WINE_COLUMNS} for _ in range(500)]
    with ExitStack() as stack:
        replicas = stack.enter_context(served_models([(sample_registry.url, f"{WINE}/1")] * 2, folder))
        rules = _RULES.format(first=replicas[0].address, second=replicas[1].address, wine=WINE)
        nginx = stack.enter_context(Nginx(folder / "nginx", rules))
        for one in replicas:
            one.wait()
        scores = httpx.post(
            f"{replicas[0].url}/invocations", json={"dataframe_records": rows}, trust_env=False, timeout=60.0
        ).json()["predictions"]
        yield Farm(nginx, replicas, sample_registry.url, rows, scores)


def _pass(seconds: float) -> None:
    """Let the time of an outage pass."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end)


@pytest.mark.parametrize("seconds", [0.0, 0.2, 2.0])
def test_nginx_is_restarted(farm: Farm, seconds: float) -> None:
    """The only nginx ends in the midst of its answers, is away for a while, and comes back."""
    with farm.callers("/both") as callers:
        for _ in range(1 if seconds > 1 else 2):
            farm.nginx.stop()
            _pass(seconds)
            farm.nginx.start()
            callers.more()


def test_nginx_is_reloaded(farm: Farm) -> None:
    """Six times nginx reads its configuration again, and other processes of it answer from then on."""
    with farm.callers("/both") as callers:
        for _ in range(6):
            farm.nginx.reload()
            callers.more(2)


@pytest.mark.parametrize("bases", [("/a", "/b"), ("/both",)], ids=["two bases", "nginx balances"])
def test_replica_is_frozen(farm: Farm, bases: tuple[str, ...]) -> None:
    """One of two replicas answers nothing while its connections stay open, and goes on later."""
    with farm.callers(*bases) as callers:
        farm.replicas[0].freeze()
        try:
            callers.more(30)
        finally:
            farm.replicas[0].thaw()


def test_one_of_twenty_fails(farm: Farm) -> None:
    """Five percent of the requests are answered with 503."""
    with farm.callers("/unlucky") as callers:
        before = len(farm.nginx.seen())
        wait_until(lambda: bool(callers.faults) or farm.nginx.seen()[before:].count(503) > 8, 60.0)


def test_answers_are_cut(farm: Farm) -> None:
    """One of twenty answers ends in its middle with a reset of the connection."""
    with CuttingProxy(farm.nginx.port, 20) as proxy, farm.callers(f"{proxy.url}/both") as callers:
        wait_until(lambda: bool(callers.faults) or proxy.cuts > 8, 60.0)


@pytest.mark.parametrize("bases", [("/a", "/b"), ("/both",)], ids=["two bases", "nginx balances"])
def test_replica_is_killed(farm: Farm, bases: tuple[str, ...]) -> None:
    """One of two replicas is killed in the midst of its answers."""
    with farm.callers(*bases) as callers:
        farm.replicas[1].kill()
        callers.more(30)
    farm.replicas[1].start()
    farm.replicas[1].wait()
