"""deploy/prometheus and deploy/grafana before a real Prometheus, and services with all that the alerts are about."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, ServiceError, Tls
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract.enricher_service_pb2_grpc import EnricherServiceStub
from tests.conftest import RunningRegistry, find_port
from tests.support.certificates import Authority
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, answer_json
from tests.support.hostile_server import Request as RegistryRequest
from tests.support.model_server import ModelServer, Reply, Request, Script
from tests.support.prometheus import Prometheus, faster
from tests.support.registry_writer import mlmodel_text
from tests.support.serve_process import Serve, serve
from tests.support.synthetic_registry import SyntheticRegistry
from tests.support.worker_processes import workers_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRINZ_TEST_ALERTS" not in os.environ, reason="takes the whole machine: make test-alerts"),
]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "prinz-enricher.json"
WINE = next(iter(EXAMPLES))
TOKEN = "a-token-of-these-tests"  # noqa: S105 - it is
SECONDS = 900.0

THRESHOLDS = {"_age_seconds > 600": "_age_seconds > 20", "> 4e9": "> 2e8", "[5m]) > 0.9": "[5m]) > 0.1"}
"""Numbers of the rules that nobody waits for in a test, and what they are here."""

EXPECTED = {
    ("Absent", "", ""),
    ("CatalogNeverRead", "lost", "default"),
    ("Restarts", "lost", ""),
    ("Down", "lost", ""),
    ("CertificateExpires", "guarded", "server"),
    ("ReloadFailed", "guarded", "tokens"),
    ("AuthFailures", "guarded", "TOKEN_INVALID"),
    ("Quota", "guarded", "scenarios"),
    ("CatalogFaults", "remote", "default"),
    ("CatalogOld", "remote", "default"),
    ("Errors", "remote", ""),
    ("Memory", "remote", ""),
    ("ModelErrors", "remote", "picky"),
    ("ModelFailed", "remote", "away"),
    ("ModelFailed", "remote", "broken"),
    ("ModelLoading", "remote", "hung"),
    ("Overloaded", "remote", "crowded"),
    ("Queue", "remote", "crowded"),
    ("Slow", "remote", "crowded"),
    ("Slow", "remote", "slow"),
    ("UpstreamDown", "remote", "gone"),
    ("UpstreamErrors", "remote", "flaky"),
    ("OpenFiles", "busy", ""),
    ("Processor", "busy", ""),
    ("WorkerRestarts", "busy", WINE),
}
"""Each alert without its prefix, the instance that has its cause, and what else it is about."""

NO_MATTER = {
    ("UpstreamErrors", "remote", "gone"),
    ("Processor", "remote", ""),
    ("ModelLoading", "busy", WINE),
    ("Slow", "busy", WINE),
}
"""What may follow from a cause: an endpoint that is left out gets few requests, refusals cost, killed workers load."""

ALONE = {"PRINZ_REGISTRY__SNAPSHOT_FOLDER": "", "PRINZ_SCORING__SPARE_WORKERS": "0"}


class Services:
    """Services with their Prometheus, and what goes wrong with them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._ended = threading.Event()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        # Called last: calls end with the services.
        stack.callback(self._join)
        self.authority = Authority(folder)
        rules = ALERTS.read_text()
        for shipped, here in THRESHOLDS.items():
            assert rules.count(shipped) == 1
            rules = rules.replace(shipped, here)
        prometheus = Prometheus(folder / "prometheus", faster(rules), self.authority.file, TOKEN)
        self.prometheus = stack.enter_context(prometheus)
        self.began = time.time()

    def firing(self) -> set[tuple[str, str, str]]:
        """Return the alerts that fire, as in EXPECTED."""
        return _alerts(self.prometheus.query('ALERTS{alertstate="firing"}'))

    def fired(self) -> set[tuple[str, str, str]]:
        """Return the alerts that fire, or did."""
        return _alerts(self.prometheus.query('count_over_time(ALERTS{alertstate="firing"}[1h])'))

    def serve(self, registry: str, *flags: str, **variables: str) -> Serve:
        """Run a service."""
        flags = ("--registry", registry, "--http-port", "0", *flags)
        return self._stack.enter_context(serve(*flags, variables=ALONE | variables))

    def scrape(self, instance: str, running: Serve, scheme: str = "http") -> None:
        """Scrape a service from now on."""
        events = map(json.loads, list(running.lines))
        port = next(event["port"] for event in events if event["event"] == "admin http server started")
        self.prometheus.scrape(instance, port, scheme)

    def serve_guarded(self, instance: str, registry: str, days: int, **variables: str) -> Serve:
        """Run a service with a certificate of so many days, a token, and a quota of calls."""
        pair, tokens = self.authority.server(instance, days=days), self.tokens_of(instance)
        tokens.write_text(f'[[token]]\nname = "scenarios"\nsha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"\n')
        flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
        more = {"PRINZ_AUTH__TOKENS_FILE": str(tokens), "PRINZ_HTTP__WEBHOOK_SECRET": "a secret", **variables}
        return self.serve(registry, *flags, **more)

    def tokens_of(self, instance: str) -> Path:
        """Return the file of a service's tokens."""
        return self._folder / f"{instance}.toml"

    def client(self, running: Serve, token: str = "") -> Client:
        """Return a client that does not try again."""
        tls = Tls(ca=self.authority.file) if token else None
        client = Client(running.address, timeout=SECONDS, retry=False, coalesce=False, tls=tls, token=token or None)
        return self._stack.enter_context(client)

    def watch(self, running: Serve) -> None:
        """Watch the models of a service with the token, until the end."""
        credentials = grpc.ssl_channel_credentials(self.authority.file.read_bytes())
        channel = self._stack.enter_context(grpc.secure_channel(running.address, credentials))
        stub: Any = EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        next(stub.WatchModels(pb.WatchModelsRequest(), metadata=[("authorization", f"Bearer {TOKEN}")]))

    def repeat(self, call: Callable[[], object], pause: float = 0.0, threads: int = 1) -> None:
        """Call again and again until the end, whatever the service says; a pause follows each call."""

        def loop() -> None:
            while not self._ended.is_set():
                try:
                    call()
                except ServiceError:
                    self._ended.wait(0.2)
                except BaseException as error:  # noqa: BLE001 - the test raises it
                    if not self._ended.is_set():
                        self._errors.append(error)
                    return
                self._ended.wait(pause)

        for _ in range(threads):
            self._threads.append(threading.Thread(target=loop, daemon=True))
            self._threads[-1].start()
        self._stack.callback(self._ended.set)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def reaches(self, query: str, least: float) -> bool:
        """Return whether a value of the query is that large."""
        return any(value >= least for _, value in self.prometheus.query(query))

    def wait_for_data(self, query: str) -> None:
        """Wait until a query has a result."""
        wait_until(lambda: bool(self.prometheus.query(query)), SECONDS)

    def wait_for(self, *alerts: tuple[str, str, str]) -> None:
        """Wait until these alerts fire, or have fired."""

        def happened() -> bool:
            assert not self._errors, self._errors
            time.sleep(0.2)
            return self.fired() >= {*alerts}

        with suppress(AssertionError):
            wait_until(happened, SECONDS)
        assert {*alerts} - self.fired() == set(), self.fired()


def _alerts(found: list[tuple[dict[str, str], float]]) -> set[tuple[str, str, str]]:
    subjects = ("model", "endpoint", "registry", "what", "reason", "principal")
    return {
        (
            labels["alertname"].removeprefix("PrinzEnricher"),
            labels.get("instance", ""),
            next((labels[subject] for subject in subjects if subject in labels), ""),
        )
        for labels, _ in found
    }


class Upstream:
    """The model servers of `remote`: what they do depends on the model."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._count = itertools.count()

    def __call__(self, request: Request) -> Reply | Script:
        """Answer a request."""
        model = request.target.split("/")[-2]
        if "json" not in request.headers["content-type"]:
            return Reply(b"{}", 415)
        number = next(self._count)
        if model == "flaky" and number % 3 == 0:
            return Reply(b"{}", 503)
        if model == "picky" and number % 3 == 0:
            error = {"error_code": "BAD_REQUEST", "message": RAISED, "stack_trace": "Traceback\nValueError: no\n"}
            return Reply(json.dumps(error).encode(), 400)
        self._server.ended.wait({"slow": 1.5, "crowded": 0.5}.get(model, 0.0))
        body = json.loads(request.body)
        rows = len(body["inputs"]["x"] if "inputs" in body else body["dataframe_split"]["data"])
        return Reply(json.dumps({"predictions": [0.5] * rows}).encode())


RAISED = "Encountered an unexpected error while evaluating the model. Verify that the input is compatible"


class Registry(SyntheticRegistry):
    """The registry of `remote`: the files of one model can't be listed, those of another one never are; it may fail.

    Attributes:
        ended: Set at the end, so that nothing hangs on.
        fails: Whether the list of models can't be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.fails = False
        for name in ("slow", "crowded", "picky", "flaky", "away", "hung", "broken"):
            self.add(name, mlmodel=mlmodel_text([{"type": "double", "name": "x"}]))
        self.models["crowded"].tags["prinz.batching"] = "off"
        self.add("faulty", mlmodel="not: [a model")

    def __call__(self, request: RegistryRequest) -> Answer:
        """Answer one request."""
        if request.path.endswith("/mlflow-artifacts/artifacts") and b"hung".hex() in request.target:
            self.ended.wait(600)
        if self.fails and request.path.endswith("search"):
            return answer_json({"error_code": "INTERNAL_ERROR"}, 500)
        return super().__call__(request)


@pytest.fixture(scope="module")
def services(sample_registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Five services, of which four are in trouble; all alerts have fired."""
    with ExitStack() as stack:
        made = Services(tmp_path_factory.mktemp("alerts"), stack)
        made.wait_for(("Absent", "", ""))
        begin_sound(made, sample_registry.url)
        busy = begin_busy(made, sample_registry.url)
        begin_remote(made, stack)
        begin_guarded(made, sample_registry.url)
        kill_workers(made, busy)
        lose(made)
        made.wait_for(*EXPECTED)
        yield made


def begin_sound(made: Services, registry: str) -> None:
    """Start a service that nothing is wrong with, which has all that others have."""
    sound = made.serve_guarded("sound", registry, days=365)
    client = made.client(sound, TOKEN)
    assert client.score(WINE, EXAMPLES[WINE]).batch.num_rows == 1
    made.scrape("sound", sound, "https")
    made.repeat(lambda: client.score(WINE, EXAMPLES[WINE]), pause=0.2)


def begin_busy(made: Services, registry: str) -> Serve:
    """Start a service that has a lot to do and few files that it may open."""
    busy = made.serve(registry, PRINZ_SCORING__SPARE_WORKERS="1")
    client = made.client(busy)
    assert client.score(WINE, EXAMPLES[WINE]).batch.num_rows == 1
    made.scrape("busy", busy)
    rows = {name: np.full(20_000, value) for name, value in EXAMPLES[WINE][0].items()}
    made.repeat(lambda: client.score(WINE, rows), threads=2)
    opened = len(list(Path(f"/proc/{busy.process.pid}/fd").iterdir()))
    resource.prlimit(busy.process.pid, resource.RLIMIT_NOFILE, (opened + 8, opened + 8))
    return busy


def kill_workers(made: Services, busy: Serve) -> None:
    """Kill four workers, one after the other, each once it has scored."""
    client, name = made.client(busy), f'prinz_enricher_worker_restarts_total{{instance="busy",model="{WINE}"}}'
    for killed in range(4):
        assert client.score(WINE, EXAMPLES[WINE]).batch.num_rows == 1
        for worker in workers_of(busy.process.pid):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        wait_until(partial(made.reaches, name, killed + 1), SECONDS)


def begin_remote(made: Services, stack: ExitStack) -> None:
    """Start a service whose registry ends, and whose models are elsewhere, or can't be loaded."""
    catalog, servers, registry = stack.enter_context(HostileServer()), stack.enter_context(ModelServer()), Registry()
    stack.callback(registry.ended.set)
    catalog.respond, servers.respond = registry, Upstream(servers)
    endpoints = {
        "farm": (servers.url, "slow,crowded,picky"), "flaky": (servers.url, "flaky"),
        "gone": (f"http://127.0.0.1:{find_port()}", "away"),
    }  # fmt: skip
    variables = {"PRINZ_REGISTRY__REFRESH_INTERVAL": "0.5", "PRINZ_SCORING__MAX_WAIT": "3"}
    for name, (url, models) in endpoints.items():
        of = {"URLS": url, "MODELS": models, "CONVENTION": "prinz", "TIMEOUT": "600", "BREAKER_PAUSE": "1"}
        variables |= {f"PRINZ_ENDPOINTS__{name.upper()}__{key}": value for key, value in of.items()}
    remote = made.serve(catalog.url, **variables, PRINZ_SCORING__MAX_QUEUE_ROWS="100000000")
    client = made.client(remote)
    for model in ("slow", "picky", "flaky", "crowded"):
        with suppress(ServiceError):
            client.score(model, {"x": 1.0})
    made.scrape("remote", remote)
    for model, threads in {"slow": 1, "picky": 1, "flaky": 1, "away": 1, "crowded": 24, "broken": 1}.items():
        made.repeat(partial(client.score, model, {"x": 1.0}, timeout=30.0), pause=0.05, threads=threads)
    # They wait for a model that is being loaded.
    rows = {"x": np.ones(1_000_000)}
    made.repeat(lambda: client.score("hung", rows, timeout=600.0), threads=40)
    made.wait_for_data('prinz_enricher_workers{instance="remote",state="failed"} > 0')
    registry.fails = True


def begin_guarded(made: Services, registry: str) -> None:
    """Start a service whose certificate ends soon, with callers that it refuses, and a bad new file of tokens."""
    guarded = made.serve_guarded("guarded", registry, days=1, PRINZ_QUOTA__CALLS_IN_FLIGHT="1")
    made.scrape("guarded", guarded, "https")
    known, unknown = made.client(guarded, TOKEN), made.client(guarded, "guessed")
    made.repeat(lambda: list(unknown.list_models()), pause=0.2, threads=4)
    made.watch(guarded)
    made.repeat(lambda: list(known.list_models()), pause=0.2, threads=4)
    made.wait_for_data('prinz_enricher_reload_failures_total{instance="guarded"}')
    made.tokens_of("guarded").write_text("[[token]]\nname = 1\n")


def lose(made: Services) -> None:
    """Start a service without its registry, start it again and again, and leave it dead."""
    port, registry = find_port(), f"http://127.0.0.1:{find_port()}"
    started = 'process_start_time_seconds{instance="lost"}'
    made.prometheus.scrape("lost", port)
    for starts in range(4):
        # Linux counts from a start of the machine that is rounded to seconds.
        since = time.time() - 1
        with serve("--registry", registry, "--http-port", str(port), until="listening", variables=ALONE):
            made.wait_for_data(f"{started} > {since}")
            if starts == 0:
                made.wait_for(("CatalogNeverRead", "lost", "default"))


def test_each_alert_has_its_cause(services: Services) -> None:
    """Each alert has fired for the service with its cause, and for no other; none has for one that is sound."""
    assert {alert for alert, _, _ in EXPECTED} == {rule["alert"].removeprefix("PrinzEnricher") for rule in rules()}
    assert services.fired() - NO_MATTER == EXPECTED


def test_no_panel_is_empty(services: Services) -> None:
    """Each query of the dashboard is one, and has values for each service together, and for the one that is sound."""
    queries = [
        (panel["title"], target["expr"])
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    empty = [(title, query) for title, query in queries if not values(services, query)]
    assert empty == []
    assert len(queries) > 30


def test_variables_have_values(services: Services) -> None:
    """The variables of the dashboard offer the job, the services and the models."""
    found = {}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert query is not None
            matching = {"match[]": substituted(query[1]), "start": str(services.began)}
            found[variable["name"]] = set(services.prometheus.get(f"label/{query[2]}/values", **matching))
    assert found["job"] == {"prinz-enricher"}
    assert found["instance"] == {"sound", "busy", "remote", "guarded", "lost"}
    assert {WINE, "slow", "picky"} <= found["model"]


def rules() -> list[dict[str, Any]]:
    """Return the rules that are shipped."""
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def substituted(query: str) -> str:
    """Return a query of the dashboard as Grafana sends it, where everything is chosen."""
    query = re.sub(r"\$(job|instance|model)\b", ".*", query)
    return query.replace("$__rate_interval", "10s")


def values(services: Services, query: str) -> list[float]:
    """Return the values of a query since the beginning, as a panel shows them."""
    times = {"start": str(services.began), "end": str(time.time()), "step": "2"}
    found = services.prometheus.get("query_range", query=substituted(query), **times)["result"]
    return [float(value) for series in found for _, value in series["values"] if math.isfinite(float(value))]
