"""A registry that means harm: each of its attacks is bounded, and listed with its fault; docs/security.md has them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from google.rpc import status_pb2

from prinz_enricher.catalog import Catalog, Snapshot, mlmodel_parser, model_files
from prinz_enricher.catalog.mlmodel_parser import LARGE, MAX_FLAVORS, MlmodelParser, parse_mlmodel
from prinz_enricher.catalog.serving_rules import ServingOptions, read_serving_options
from prinz_enricher.cli import main
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, signature_pb2
from prinz_enricher.registry import MlmodelUnreadable, RegistryClient, RegistryUnreadable, entities, transport
from prinz_enricher.registry.mlmodel_yaml import MAX_BYTES, MAX_NODES, read_mlmodel
from prinz_enricher.scoring.cost import LoadTimes
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.runtime.worker_group import WorkerGroup
from prinz_enricher.service import enricher, model_messages
from prinz_enricher.service.background_source import BackgroundSource
from prinz_enricher.signature import Signature, SignatureError, mlflow_json, read_signature, to_wire
from prinz_enricher.signature.mlflow_json import MAX_FIELDS, MAX_JSON_VALUES
from prinz_enricher.telemetry.series import Series
from tests.support.hostile_server import Answer, HostileServer
from tests.support.own_service import own_service
from tests.support.registry_writer import mlmodel_text
from tests.support.running_service import LONG, Service
from tests.support.synthetic_registry import SyntheticRegistry


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """A registry with one good model, `wine`."""
    synthetic = hostile_server.respond = SyntheticRegistry("wine")
    return synthetic


@pytest.fixture
def catalog(hostile_server: HostileServer) -> Iterator[Catalog]:
    """A catalog of that registry, which a test refreshes."""
    with RegistryClient(hostile_server.url, timeout=5.0) as client:
        opened = Catalog(client)
        yield opened
        opened.stop()


def columns(count: int) -> list[dict[str, object]]:
    """Return columns of a signature, in MLflow's JSON."""
    return [{"type": "double", "name": f"x{number}", "required": True} for number in range(count)]


def large_mlmodel(count: int) -> str:
    """Return an MLmodel file with so many columns."""
    signature = {"inputs": json.dumps(columns(count)), "outputs": json.dumps([{"type": "double"}]), "params": None}
    return f"flavors:\n  python_function:\n    loader_module: mlflow.sklearn\nsignature: {json.dumps(signature)}\n"


def fault_of(snapshot: Snapshot, name: str) -> str:
    """Return the fault with which a model's one version is listed, and see that the good model has none."""
    assert [(version.fault, version.ready) for version in snapshot.models["wine"].versions] == [("", True)]
    (version,) = snapshot.models[name].versions
    assert version.signature is None
    return version.fault


@pytest.mark.parametrize(
    ("bomb", "fault"),
    [
        ("%TAG !a! b\n" * 5 + "---\na: 1", "has YAML directives"),
        ("a: &a {b: 1}\nc: {<<: *a}", "has merge keys"),
        ("a: !!int '1:1:1'", "has YAML tags"),
        ("a: !!python/object/apply:os.getpid []", "has YAML tags"),
        ("a: [" + "[]," * MAX_NODES + "]", f"has more than {MAX_NODES} YAML nodes"),
        ("a: " + "[" * 200_000, "is nested deeper than 100 levels"),
        ("a: &a\nb: &a", "can't be read as YAML"),
        ("a: *a", "can't be read as YAML"),
        ("a: 1\n---\na: 2", "can't be read as YAML"),
        ("[a]: 1", "can't be read as YAML"),
    ],
    ids=["directives", "merge", "tag", "object", "nodes", "depth", "anchors", "alias", "documents", "key"],
)
def test_yaml_bombs(catalog: Catalog, registry: SyntheticRegistry, bomb: str, fault: str) -> None:
    """YAML that costs more than its bytes is listed with its fault, and the other model is served."""
    registry.add("bomb", mlmodel=bomb)
    assert f"its MLmodel file {fault}" in fault_of(catalog.refresh(), "bomb")


@pytest.mark.parametrize("text", ["1" + ":59" * 20_000, "1" + ":59" * 20_000 + ".5", "9" * 5_000, "2024-99-99"])
def test_numbers_that_take_the_square_of_their_length(text: str) -> None:
    """Numbers in base 60 and of thousands of digits, and dates, stay text: nothing is computed of them."""
    assert read_mlmodel(f"a: {text}".encode()) == {"a": text}


def test_aliases_are_not_expanded() -> None:
    """Aliases of aliases are the same few objects, however many values they stand for."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
    found = read_mlmodel("\n".join(lines).encode())
    levels = [found[f"a{n}"] for n in range(30)]
    for outer, inner in zip(levels[1:], levels, strict=False):
        assert isinstance(outer, list)
        assert all(one is inner for one in outer)


def test_what_mlflow_writes_is_read_to_the_same_values() -> None:
    """The values are those of YAML's own loader, for what MLflow writes."""
    content: dict[str, object] = {
        "null": None,
        "flags": [True, False],
        "numbers": [0, -7, 12870, 3.25, -0.5],
        "texts": [
            "",
            "~",
            "3.10",
            "3.11.7",
            "1:30",
            "012",
            "2026-11-29 10:12:07.327664",
            "yes",
            "ż\n\u2028%",
            "a: b #c",
        ],
        "nested": {"signature": {"inputs": json.dumps(columns(50)), "params": None}, "empty": [[], {}]},
    }
    for flow in (False, True, None):
        text = yaml.safe_dump(content, default_flow_style=flow, allow_unicode=bool(flow))
        assert read_mlmodel(text.encode()) == content


def test_a_giant_mlmodel_is_not_read_to_its_end(catalog: Catalog, registry: SyntheticRegistry) -> None:
    """Of 100 MB a little more than the bound is read, and the version is listed with the bound."""
    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(1600):
            sent.append(1 << 16)
            yield b"#" * (1 << 16)

    registry.add("giant")
    registry.override["giant/1"] = Answer(b"", declared_length=1600 << 16, pieces=pieces())
    assert f"larger than {MAX_BYTES} bytes; log the model with less" in fault_of(catalog.refresh(), "giant")
    # What fits into the sockets' buffers is sent besides.
    assert sum(sent) < 3 * MAX_BYTES


def test_signatures_have_a_number_of_columns(catalog: Catalog, registry: SyntheticRegistry) -> None:
    """A signature at the bound is served; one beyond it is listed with its fault, and says what to do."""
    registry.add("wide", mlmodel=large_mlmodel(MAX_FIELDS))
    registry.add("wider", mlmodel=large_mlmodel(MAX_FIELDS + 1))
    snapshot = catalog.refresh()
    signature = snapshot.models["wide"].versions[0].signature
    assert signature is not None
    assert len(signature.inputs) == MAX_FIELDS
    fault = fault_of(snapshot, "wider")
    assert f"The signature has more than {MAX_FIELDS} inputs; log the model with fewer columns" in fault


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("inputs", [{"type": "object", "name": "o", "properties": {f"p{n}": {"type": "long"} for n in range(30_000)}}]),
        ("params", [{"name": "p", "dtype": "long", "shape": [-1], "default": [0] * (MAX_JSON_VALUES + 1)}]),
        ("outputs", [[]] * (MAX_JSON_VALUES + 1)),
    ],
    ids=["properties", "default", "lists"],
)
def test_signatures_have_a_number_of_values(monkeypatch: pytest.MonkeyPatch, section: str, part: list[object]) -> None:
    """JSON with too many values is refused before it is parsed; commas in texts are none of them."""
    assert read_signature({"signature": {"inputs": json.dumps([{"type": "long", "name": "{[," * 200_000}])}}).inputs
    monkeypatch.setattr("json.loads", None)
    with pytest.raises(SignatureError, match=f"The {section} of the signature have more than 20000 objects or 100000"):
        read_signature({"signature": {section: json.dumps(part)}})


@pytest.mark.parametrize("text", ['"' + '\\"' * 300_000, '["' + "{" * 30_000 + "\\", "{" * 30_000])
def test_json_that_does_not_end(text: str) -> None:
    """Texts without their end are counted in one pass, and refused."""
    with pytest.raises(SignatureError):
        read_signature({"signature": {"inputs": text}})


def test_a_name_twice_is_found_in_one_pass() -> None:
    """Of two equal names at the end of many columns each is compared a few times, not with all before it."""
    compared = 0

    class Name(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(number) for number in range(1000)]
    with pytest.raises(SignatureError, match='two inputs called "999"'):
        mlflow_json._refuse_duplicates([*names, Name(999)], "inputs")
    assert compared < 100


def test_faults_are_short(catalog: Catalog, registry: SyntheticRegistry) -> None:
    """A fault that quotes a name of the registry does not take its length."""
    registry.add("long", mlmodel=mlmodel_text([{"type": "double", "name": "x" * 10_000}] * 2))
    fault = fault_of(catalog.refresh(), "long")
    assert "two inputs called" in fault
    assert len(fault) < 600


@pytest.mark.parametrize("flavors", [{f"f{n}": {} for n in range(MAX_FLAVORS + 1)}, {"f" * 256: {}}])
def test_flavours_are_few_and_short(flavors: dict[str, object]) -> None:
    """Names of flavours, which are in every list, are bounded."""
    with pytest.raises(MlmodelUnreadable, match="more than 100 flavours, or names longer than 255"):
        parse_mlmodel(json.dumps({"flavors": flavors}).encode())


def test_large_files_are_read_by_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may take long is read outside of this process, to the same; the process is replaced where it dies."""
    content = large_mlmodel(2000).encode()
    assert len(content) > LARGE
    here = parse_mlmodel(content)
    parser = MlmodelParser()
    monkeypatch.setattr(mlmodel_parser, "parse_mlmodel", None)
    try:
        there = parser.parse(content)
        assert (there, there.fingerprint) == (here, here.fingerprint)
        process = parser._process._process
        assert process is not None
        assert process.pid != os.getpid()
        process.kill()
        process.wait()
        assert parser.parse(content) == here
        with pytest.raises(MlmodelUnreadable, match="is not a mapping"):
            parser.parse(b"- " + b"#" * LARGE)
        wide = parser.parse(large_mlmodel(MAX_FIELDS + 1).encode())
        assert (wide.signature, wide.loader) == (None, "mlflow.sklearn")
    finally:
        parser.close()


def test_a_large_file_without_an_exact_form() -> None:
    """What the process can't return exactly is read here, within all bounds."""
    default = {"name": "p", "dtype": "datetime", "default": "2024-01-01T00:00:00+02:00", "shape": None}
    signature = {"inputs": json.dumps(columns(2000)), "params": json.dumps([default])}
    content = json.dumps({"flavors": {"python_function": {}}, "signature": signature}).encode()
    parser = MlmodelParser()
    try:
        assert parser.parse(content) == parse_mlmodel(content)
    finally:
        parser.close()


def test_a_page_ends_by_its_bytes(
    hostile_server: HostileServer, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models with many columns each page has as many as fit, and all pages together have all, in either view."""
    for number in range(4):
        registry.add(f"wide-{number}", mlmodel=large_mlmodel(300))
    size = message_bytes(300)
    monkeypatch.setattr(enricher, "MAX_PAGE_BYTES", int(2.5 * size))
    written: list[str] = []

    def count(signature: Signature) -> signature_pb2.Signature:
        written.append(signature.digest)
        return to_wire(signature)

    monkeypatch.setattr(model_messages, "to_wire", count)
    with own_service(hostile_server.url) as service:
        basic = pages(service, pb.MODEL_VIEW_BASIC)
        assert (len(basic), written) == (1, [])
        full = pages(service, pb.MODEL_VIEW_FULL)
        assert len(written) == 5
        assert [len(page.models) for page in full] == [2, 3]
        assert all(page.ByteSize() < 2.5 * size for page in full)
        names = [[model.name for page in listing for model in page.models] for listing in (basic, full)]
        assert names == [["wide-0", "wide-1", "wide-2", "wide-3", "wine"]] * 2
        assert all(len(model.versions[0].signature.inputs) == 300 for model in full[0].models)
        pages(service, pb.MODEL_VIEW_FULL)
        # What did not change is not written again.
        assert len(written) == 5


def message_bytes(count: int) -> int:
    """Return the bytes of the message of a signature with so many columns."""
    signature = parse_mlmodel(large_mlmodel(count).encode()).signature
    assert signature is not None
    return to_wire(signature).ByteSize()


def pages(service: Service, view: pb.ModelView) -> list[pb.ListModelsResponse]:
    """Return all pages of all models."""
    stub, token = service.stub(), ""
    found: list[pb.ListModelsResponse] = []
    while not found or token:
        found.append(stub.ListModels(pb.ListModelsRequest(view=view, page_token=token), timeout=LONG))
        token = found[-1].next_page_token
    return found


def test_a_model_has_so_many_bytes_of_signatures(
    hostile_server: HostileServer, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the signatures of all versions are too much for one message, those of the newest are in it."""
    registry.add("many", 5, mlmodel=large_mlmodel(300))
    monkeypatch.setattr(model_messages, "MAX_SIGNATURES_BYTES", int(2.5 * message_bytes(300)))
    with own_service(hostile_server.url) as service:
        (page,) = pages(service, pb.MODEL_VIEW_FULL)
        versions = page.models[0].versions
        assert [(one.version, one.HasField("signature")) for one in versions] == [
            *(("5", True), ("4", True)),
            *(("3", False), ("2", False), ("1", False)),
        ]
        assert [bool(one.state_message) for one in versions] == [False, False, True, True, True]
        assert "GetSignature returns this one" in versions[-1].state_message
        request = pb.GetSignatureRequest(model=model_pb2.ModelRef(name="many", version="1"))
        assert len(service.stub().GetSignature(request, timeout=LONG).signature.inputs) == 300


class Slow:
    """A source that notes which threads pull it; it has three messages, and more where a test adds some."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.left = [b"a", b"b", bytes(100_000), b"c"]
        self.threads: set[int] = set()

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next message."""
        self.threads.add(threading.get_ident())
        if self.left and self.left[0] == b"fault":
            raise ValueError("made up")
        return self.left.pop(0) if self.left else None

    def close(self) -> None:
        """Do nothing."""


def test_a_watch_is_written_by_other_threads() -> None:
    """The thread that sends a stream writes none of its messages, gets each of them, and the fault where one fails."""
    woken, opened = threading.Semaphore(0), list[Slow]()

    def open_source(wake: Callable[[], None]) -> Slow:
        opened.append(Slow(wake))
        return opened[0]

    def receive(count: int) -> list[bytes | status_pb2.Status]:
        received: list[bytes | status_pb2.Status] = []
        while len(received) < count:
            if (item := source.pull()) is None:
                assert woken.acquire(timeout=LONG)
            else:
                received.append(item)
        return received

    with ThreadPoolExecutor(2) as threads:
        source = BackgroundSource(threads, open_source, woken.release)
        assert receive(4) == [b"a", b"b", bytes(100_000), b"c"]
        opened[0].left += [b"d"]
        opened[0].wake()
        assert receive(1) == [b"d"]
        opened[0].left += [b"fault"]
        opened[0].wake()
        (fault,) = receive(1)
        assert isinstance(fault, status_pb2.Status)
        assert threading.get_ident() not in opened[0].threads
        source.close()


def test_pages_beyond_a_bound_are_asked_for_again_with_fewer_entries(
    hostile_server: HostileServer, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page with too many values or bytes is not parsed, but read in smaller ones; all of its entities are there."""
    names = [f"model-{number:02}" for number in range(40)]
    for name in names:
        registry.add(name).tags = {f"tag-{number}": "x" * 100 for number in range(10)}
    for bound, value in (("MAX_PAGE_VALUES", 400), ("MAX_PAGE_BYTES", 10_000)):
        with monkeypatch.context() as patch, RegistryClient(hostile_server.url) as client:
            patch.setattr(transport, bound, value)
            hostile_server.requests.clear()
            assert [model.name for model in client.registered_models().items] == [*names, "wine"]
            sizes = [int(request.query["max_results"][0]) for request in hostile_server.requests]
            assert sizes[:3] == [1000, 500, 250]
            assert min(sizes) >= 3


def test_a_listing_has_so_many_bytes_and_entities(
    hostile_server: HostileServer, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry whose pages go on and on is given up with the bound; what was known of it stays."""
    for number in range(20):
        registry.add(f"model-{number}")
    with RegistryClient(hostile_server.url, models_per_page=5) as client:
        with monkeypatch.context() as patch:
            patch.setattr(transport, "MAX_LISTING_BYTES", 1000)
            with pytest.raises(RegistryUnreadable, match="have more than 1000 bytes in all"):
                client.registered_models()
        monkeypatch.setattr(entities, "MAX_ENTITIES", 19)
        with pytest.raises(RegistryUnreadable, match="more than 19 models, or versions"):
            client.registered_models()


def test_entities_beyond_a_bound(
    catalog: Catalog, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name or a text that no registry allows hides its own entity alone, and faults are as many as can be read."""
    monkeypatch.setattr(entities, "MAX_FAULTS", 3)
    registry.add("n" * 1025)
    registry.add("described").description = "x" * (128 * 1024 + 1)
    for number in range(8):
        registry.add(f"tagged-{number}").tags = {"": "x"}
    snapshot = catalog.refresh()
    assert list(snapshot.models) == ["wine"]
    assert sum("more entities of the registry can't be read" in fault for fault in snapshot.faults) >= 1
    assert len(snapshot.faults) < 10
    assert all(len(fault) < 300 for fault in snapshot.faults)


EVIL = "\x1b[31mred\x1b]0;title\x07\nfake: line\r\u202e\x9b"


@pytest.mark.parametrize("style", ["console", "json"])
def test_names_do_not_control_the_log(style: str) -> None:
    """Whatever a registry calls its models, an event of the log is one line of printable text."""
    program = (
        "import sys, structlog, logging; from prinz_enricher.telemetry import configure_logging; name = sys.argv[2];"
        "configure_logging('info', sys.argv[1]);"
        "structlog.get_logger().warning('version can\\'t be read', model=name, entity=(name, '1'), fault=name);"
        "logging.getLogger('a library').warning('it says %s', name)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, style, EVIL], capture_output=True, text=True, check=True
    ).stderr
    assert len(told.splitlines()) == 2
    assert all(line.isprintable() for line in told.splitlines())
    assert told.count("[31mred") >= 3


def test_names_do_not_control_the_terminal(
    hostile_server: HostileServer, registry: SyntheticRegistry, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Names, aliases, faults, columns and errors of a registry are printed without what controls a terminal."""
    model = registry.add(EVIL, mlmodel=mlmodel_text([{"type": "double", "name": EVIL}], [{"type": EVIL}]))
    model.aliases = {EVIL: "1"}
    model.tags = {"prinz.default": EVIL, "prinz.route": EVIL}
    rows = tmp_path / "rows.csv"
    rows.write_text("a\n1\n")
    registry.add(f"good{EVIL}", mlmodel=mlmodel_text([{"type": "double", "name": EVIL}]))
    with own_service(hostile_server.url) as service:
        address = ["--address", service.address]
        score = ["score", EVIL, "--input", str(rows), "--output", str(tmp_path / "scores.csv")]
        for command in (["models"], ["signature", EVIL], ["signature", f"good{EVIL}"], score):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["prinz-enricher", *command, *address])
                with suppress(SystemExit):
                    main()
            printed = capsys.readouterr()
            told = "".join(line for line in (printed.out + printed.err).splitlines() if "[info" not in line)
            assert told.isprintable(), command
            assert "[31mred" in told


def test_tags_take_no_more_than_the_settings_allow() -> None:
    """Tags of a registry that ask for workers are bounded by the settings, and invalid ones count for nothing."""
    for replicas in ("65", "0", "-1", "1e9", "9" * 10_000, "٣", " "):
        assert read_serving_options({"prinz.replicas": replicas}, {}).replicas == 0
    greedy = read_serving_options({"prinz.replicas": "64"}, {})
    assert greedy.replicas == 64
    signature = parse_mlmodel(mlmodel_text().encode()).signature
    assert signature is not None
    target = Target("greedy", "1", "", signature, replicas=greedy.replicas)
    settings = PoolSettings(max_workers=3)
    group = WorkerGroup(target, settings, LoadTimes(), lambda: None, Series())
    assert group.wanted == 3
    assert read_serving_options({"prinz.environment": "../x", "prinz.batching": "always"}, {}) == ServingOptions()


def test_a_registry_has_so_many_bytes_of_mlmodel_files(
    catalog: Catalog, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signatures beyond the memory that one registry may take are listed with that fault, until there is room."""
    catalog.refresh()
    size = len(large_mlmodel(300))
    monkeypatch.setattr(model_files, "MAX_BYTES", len(mlmodel_text()) + size + size // 2)
    registry.add("wide-1", 50, mlmodel=large_mlmodel(300))
    # What many versions share counts once.
    assert all(version.signature for version in catalog.refresh().models["wide-1"].versions)
    registry.add("wide-2", mlmodel=large_mlmodel(299))
    assert "has a signature that is not kept" in fault_of(catalog.refresh(), "wide-2")
    registry.remove("wide-1")
    catalog.refresh()
    assert catalog.refresh().models["wide-2"].versions[0].signature is not None
