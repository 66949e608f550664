"""`prinz-enricher demo`: an MLflow server with sample models, and the service in front of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
from rich.console import Console

from prinz_enricher.application import Application
from prinz_enricher.cli.describe import print_models, print_scores, print_signature
from prinz_enricher.cli.process_setup import catch_signals, wait_for_signal
from prinz_enricher.cli.service_connection import connect, own_service, print_line
from prinz_enricher.client import Client
from prinz_enricher.contract import model_pb2
from prinz_enricher.registry import PrivateServer, PrivateServerError
from prinz_enricher.telemetry import configure_logging

WINE_COLUMNS = (
    "fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide",
    "total sulfur dioxide", "density", "pH", "sulphates", "alcohol",
)  # fmt: skip

FRAUD = "MLF-FraudDetection-3"

EXAMPLES: dict[str, list[dict[str, object]]] = {
    "MLF-ElasticnetWineModel-1": [dict.fromkeys(WINE_COLUMNS, 0.235)],
    "MLF-ElasticnetWineModel-2": [dict.fromkeys(WINE_COLUMNS, 0.235)],
    FRAUD: [{"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}],
}
"""A row for each sample model."""

_LOAD_SECONDS = 120.0

console = Console()

_CSV = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--once", is_flag=True, help="List, describe and score each model over gRPC, then end.")
@click.option("--folder", default=".demo", type=_FOLDER, help="Folder of the registry.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of the service.  [default: 50051, or a free one with --once]"
)
@click.option("--api-port", default=0, type=click.IntRange(0, 65535), help="Port of the HTTP API; 0 for a free one.")
@click.option("--wine-csv", type=_CSV, help="Train on the UCI wine quality set.")
@click.option("--fraud-csv", type=_CSV, help="Train on the BankSim set.")
def demo(
    once: bool, folder: Path, port: int | None, api_port: int, wine_csv: Path | None, fraud_csv: Path | None
) -> None:
    """Train sample models, serve them, and show how to call them; Ctrl-C ends it all.

    Starts a real MLflow server on a SQLite store, trains and registers the sample models in it, and serves them.
    """
    configure_logging("warning", "console")
    signals, ended = catch_signals()
    if port is None:
        port = 0 if once else 50051
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            with console.status("starting MLflow …"):
                store = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
                registry = stack.enter_context(PrivateServer(store, ended=ended))
            with console.status("training the sample models …"):
                _train(registry.url, wine_csv, fraud_csv, ended)
            with console.status("starting the service, and a worker for each model …"):
                service = own_service(
                    registry.url, server={"port": port}, api={"port": api_port}, scoring={"preload": ["*"]}
                )
                application, port = stack.enter_context(service)
                address = f"localhost:{port}"
                client = stack.enter_context(connect(address, None, _LOAD_SECONDS))
                _wait_loaded(application, client, ended)
            if once:
                _show_scores(client)
            else:
                api = f"http://localhost:{application.api_port}"
                _show_service(client, address, api, registry.url, folder / "payments.csv")
                wait_for_signal(signals)
                console.print("ending …")
    except PrivateServerError as error:
        if ended.is_set():
            raise click.Abort from None
        raise click.ClickException(str(error)) from None


def _train(registry: str, wine_csv: Path | None, fraud_csv: Path | None, ended: threading.Event) -> None:
    """Train and register the sample models in a process of its own, since it needs mlflow and sklearn."""
    module = "prinz_enricher.samples" if importlib.util.find_spec("prinz_enricher.samples") else "samples"
    if importlib.util.find_spec(module) is None:
        raise click.ClickException("the sample models are not installed here; run the demo from the repository")
    arguments = [sys.executable, "-m", f"{module}.train", "--registry", registry]
    for flag, csv in (("--wine-csv", wine_csv), ("--fraud-csv", fraud_csv)):
        if csv is not None:
            arguments += [flag, str(csv)]
    # A session of its own: Ctrl-C is for the demo, which ends the training.
    out = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True) as child:
        output = None
        while output is None:
            try:
                output, _ = child.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                if ended.is_set():
                    child.terminate()
                    raise click.Abort from None
    if child.returncode:
        raise click.ClickException("\n".join(["training the sample models failed:", *output.splitlines()[-20:]]))


def _wait_loaded(application: Application, client: Client, ended: threading.Event) -> None:
    limit = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < limit and not ended.is_set():
        if application.ready.wait(timeout=0.1):
            states = {
                version.state
                for model in client.list_models()
                for version in model.versions
                if version.version == model.default_version
            }
            if not states & {model_pb2.ModelVersion.STATE_DISCOVERED, model_pb2.ModelVersion.STATE_LOADING}:
                return
            ended.wait(timeout=0.1)
    if ended.is_set():
        raise click.Abort
    raise click.ClickException(f"the models were not loaded within {_LOAD_SECONDS:.0f} s")


def _show_scores(client: Client) -> None:
    models = list(client.list_models())
    print_models(models)
    for model in models:
        resolved, signature = client.signature(model.name)
        print_signature(resolved.name, resolved.version or "", signature)
        if rows := EXAMPLES.get(model.name):
            scores = client.score(model.name, rows)
            for row, score in zip(rows, scores.to_rows(), strict=True):
                print_scores(f"{scores.name}, version {scores.version}: a row and its score", row, score)


def _show_service(client: Client, address: str, api: str, registry: str, payments: Path) -> None:
    # With a column that is not an input of the model.
    rows = ["payment;age;gender;category;amount", "1;4;F;es_transportation;800.0", "2;2;M;es_travel;7500.0"]
    payments.write_text("\n".join(rows) + "\n")
    print_models(client.list_models())
    program = Path(sys.argv[0])
    command = os.path.relpath(program) if program.name == "prinz-enricher" else program.name
    columns = [
        {"name": name, ("doubles" if isinstance(value, float) else "strings"): {"values": [value]}}
        for name, value in EXAMPLES[FRAUD][0].items()
    ]
    request = {"model": {"name": FRAUD}, "columns": {"num_rows": 1, "columns": columns}}
    lines = [
        f"Serving on {address} (gRPC) and {api} (HTTP, with a console for the browser).",
        f"The registry's pages are at {registry}. In another terminal:",
        "",
        f"  {command} models --address {address}",
        f"  {command} signature {FRAUD} --address {address}",
        f"  {command} score {FRAUD} --address {address} --input {payments} --output {payments.with_name('scored.csv')}",
        "",
        f"  grpcurl -plaintext {address} prinz.enricher.v1.EnricherService/ListModels",
        f"  grpcurl -plaintext -d '{json.dumps(request)}' \\",
        f"    {address} prinz.enricher.v1.EnricherService/Score",
        "",
        f"  curl {api}/v1/models",
        f"  curl {api}/v1/models/{FRAUD}:score -H 'Content-Type: application/json' \\",
        f"    -d '{json.dumps({'rows': EXAMPLES[FRAUD]})}'",
        "",
        "The models as enrichers of Nussknacker, without a jar:",
        "",
        f"  {command} nussknacker-config --api {api}",
        "",
        "Ctrl-C ends it all.",
    ]
    for line in lines:
        print_line(console, line)
