"""What a large registry costs the catalog, and how quickly lists are answered: `make bench-catalog`.

A registry of 5,000 models with 20,000 versions, in memory and in a process of its own, is read by a catalog in another
one: the first time with every MLmodel file, then with nothing new. Then `prinz-enricher serve` answers ListModels over
1,000 models, and GetSignature. The registry in memory is held to a real MLflow server by
tests/registry/test_synthetic_registry.py.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2

ROOT = Path(__file__).resolve().parents[1]
MODELS, VERSIONS = 5_000, 4
LISTED_MODELS = 1_000
PAGE = 100
CALLS = 2_000


def memory_mb(pid: int | str, what: str) -> float:
    """Return the memory of a process in MB: VmRSS now, VmHWM at its peak."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


@contextmanager
def registry(models: int, versions: int = VERSIONS) -> Iterator[str]:
    """Serve so many models; give the URL."""
    command = [sys.executable, "-m", "tests.support.synthetic_registry", str(models), str(versions)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


def read(url: str) -> None:
    """Read the registry again and again, and print what that costs. Runs in a process of its own."""
    import logging

    import structlog

    from prinz_enricher.catalog import Catalog
    from prinz_enricher.registry import RegistryClient

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    before = memory_mb("self", "VmRSS")
    with RegistryClient(url, timeout=60.0) as client:
        catalog = Catalog(client)
        began = time.perf_counter()
        catalog._refresh(2.0)  # noqa: SLF001 - the first step, as the catalog's own thread takes it
        listed = time.perf_counter() - began
        snapshot = catalog.refresh()
        first = time.perf_counter() - began
        versions = [version for model in snapshot.models.values() for version in model.versions]
        if any(version.signature is None for version in versions):
            raise RuntimeError("not every signature was read")
        print(f"{len(snapshot.models)} models, {len(versions)} versions")
        print(f"all listed after {listed:.1f} s, every signature read after {first:.1f} s")
        after_first = memory_mb("self", "VmRSS")
        seconds = []
        for _ in range(10):
            began = time.perf_counter()
            if catalog.refresh() is not snapshot:
                raise RuntimeError("there was something new")
            seconds.append(time.perf_counter() - began)
        print(f"refresh with nothing new: median {sorted(seconds)[5]:.2f} s, worst {max(seconds):.2f} s")
        print(
            f"memory: {before:.0f} MB before, {after_first:.0f} MB after the first refresh, "
            f"{memory_mb('self', 'VmRSS'):.0f} MB after 10 more, {memory_mb('self', 'VmHWM'):.0f} MB at the peak"
        )


def report(what: str, call: Callable[[], object]) -> None:
    """Make a call many times, and print how long it takes."""
    for _ in range(100):
        call()
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    half, most = seconds[CALLS // 2] * 1000, seconds[CALLS * 99 // 100] * 1000
    print(f"{what}: p50 {half:.2f} ms, p99 {most:.2f} ms, worst {seconds[-1] * 1000:.2f} ms")


def serve(url: str) -> None:
    """Serve the registry, and print how long calls take."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [str(Path(sys.executable).parent / "prinz-enricher"), "serve", "--registry", url, "--port", str(port)]
    environment = os.environ | {"PRINZ_REGISTRY__SNAPSHOT_FOLDER": ""}
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        full = pb.ListModelsRequest(page_size=1000, view=pb.MODEL_VIEW_FULL)
        while True:
            try:
                models = stub.ListModels(full, wait_for_ready=True).models
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                models = []
            if len(models) == LISTED_MODELS and all(v.HasField("signature") for m in models for v in m.versions):
                break
            time.sleep(0.2)
        tokens = [""]
        while len(tokens) < LISTED_MODELS // PAGE:
            tokens.append(stub.ListModels(pb.ListModelsRequest(page_size=PAGE, page_token=tokens[-1])).next_page_token)
        turn = iter(range(10**9))

        def page(view: pb.ModelView) -> Callable[[], object]:
            pages = tokens if view == pb.MODEL_VIEW_BASIC else [""]
            return lambda: stub.ListModels(
                pb.ListModelsRequest(page_size=PAGE, page_token=pages[next(turn) % len(pages)], view=view)
            )

        report(f"ListModels, {LISTED_MODELS} models, pages of {PAGE}, basic", page(pb.MODEL_VIEW_BASIC))
        report(f"ListModels, {LISTED_MODELS} models, pages of {PAGE}, full", page(pb.MODEL_VIEW_FULL))
        wanted = pb.GetSignatureRequest(model=model_pb2.ModelRef(name="model-00500", version="2"))
        report("GetSignature", lambda: stub.GetSignature(wanted))
        print(f"memory of the front: {memory_mb(process.pid, 'VmRSS'):.0f} MB")
        process.send_signal(signal.SIGTERM)


def main() -> None:
    """Run the benchmark."""
    if len(sys.argv) == 3 and sys.argv[1] == "--read":
        read(sys.argv[2])
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
    with registry(MODELS) as url:
        subprocess.run([sys.executable, __file__, "--read", url], check=True, cwd=ROOT)
    with registry(LISTED_MODELS) as url:
        serve(url)


if __name__ == "__main__":
    main()
