"""A registry that means harm: each of its attacks is bounded, and listed with its fault; docs/security.md has them."""

import json
import os
from collections.abc import Iterator

import pytest
import yaml

from prinz_enricher.catalog import Catalog, Snapshot, mlmodel_parser
from prinz_enricher.catalog.mlmodel_parser import LARGE, MAX_FLAVORS, MlmodelParser, parse_mlmodel
from prinz_enricher.registry import MlmodelUnreadable, RegistryClient
from prinz_enricher.registry.mlmodel_yaml import MAX_BYTES, MAX_NODES, read_mlmodel
from prinz_enricher.signature import SignatureError, mlflow_json, read_signature
from prinz_enricher.signature.mlflow_json import MAX_FIELDS, MAX_JSON_VALUES
from tests.support.hostile_server import Answer, HostileServer
from tests.support.registry_writer import mlmodel_text
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
