"""`prinz-enricher check` before real registries: what it says of models, and that it scores them."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tests.support.basic_auth_server import BasicAuthServer
from tests.support.model_server import ModelServer, Reply, Request
from tests.support.own_service import register
from tests.support.registry_writer import RegistryWriter

NAMES = ("MLF-ElasticnetWineModel-1", "MLF-ElasticnetWineModel-2", "MLF-FraudDetection-3")


def check(registry: str, *flags: str, **variables: str) -> tuple[int, dict[tuple[str, str], list[tuple[str, str]]]]:
    """Run the command; return its exit code, and levels and messages by what and where."""
    done = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "check", "--registry", registry, "--port", "0", "--json", *flags],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in json.loads(done.stdout)["checks"]:
        found.setdefault((one["what"], one["where"]), []).append((one["level"], one["message"]))
    return done.returncode, found


def test_sample_models(sample_registry: Any, tmp_path: Path) -> None:
    """Each is scored with its input example; nothing is stored but what scoring needs."""
    # Other tests register models there, too.
    code, found = check(sample_registry.url, *(f"--models={name}" for name in NAMES), XDG_CACHE_HOME=str(tmp_path))
    assert code == 0, found
    for name in NAMES:
        [(level, message)] = found["model", f"{name}/1"]
        assert level == "ok"
        assert message.startswith("its input example was scored in ")
    [(level, message)] = found["store", sample_registry.url]
    assert (level, message) == ("ok", f"the files of {', '.join(NAMES)} can be read")
    [(level, message)] = found["environment", "the service's own"]
    assert (level, message) == ("ok", f"for {', '.join(NAMES)}")
    assert {path.name for path in (tmp_path / "prinz-enricher").iterdir()} <= {"models", "environments"}


def test_without_scores(sample_registry: Any, tmp_path: Path) -> None:
    """With --no-score nothing is stored; --models limits what is looked at; a registry that is down hides no other."""
    variables = {"XDG_CACHE_HOME": str(tmp_path), "PRINZ_REGISTRIES__TWO__URL": "http://127.0.0.1:9"}
    code, found = check(sample_registry.url, "--no-score", "--models", "*Fraud*", **variables)
    assert code == 1
    assert [key for key, lines in found.items() if "FAIL" in dict(lines)] == [("registry", "two http://127.0.0.1:9")]
    assert not [key for key in found if key[0] == "model"]
    assert found["store", sample_registry.url] == [("ok", f"the files of {NAMES[2]} can be read")]
    assert not list(tmp_path.iterdir())


def files_of(writer: RegistryWriter, name: str) -> Path:
    """Return the folder with the files of a model's first version."""
    return writer.mlmodel_path(writer.source(name, "1")).parent


def test_models_with_faults(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """Each fault has its line: what calls will fail by is a FAIL, what the operator or the owner wants is none."""
    writer = scratch_registry

    def add(name: str, mlmodel: str | None = None, **files: str) -> None:
        writer.create_model(f"check-{name}")
        writer.create_version(f"check-{name}", mlmodel)
        for file, content in files.items():
            (files_of(writer, f"check-{name}") / file.replace("__", ".")).write_text(content)

    add("broken", "no: [yaml")
    add("forbidden", yaml.safe_dump({"flavors": {"python_function": {"loader_module": "evil.loader"}}}))
    add("empty", requirements__txt="")
    add("other", requirements__txt="scikit-learn==0.1\n")
    add("old", python_env__yaml="python: 3.99\n")
    add("index", requirements__txt="--index-url http://elsewhere\n")
    writer.create_model("check-unversioned")
    url = f"{writer.url}"
    code, found = check(url, "--models", "check-*", "--no-score", XDG_CACHE_HOME=str(tmp_path))
    assert code == 1
    [default] = [key for key in found if key[0] == "registry"]
    warnings = [message for level, message in found[default] if level == "warn"]
    assert any(message.startswith("check-broken/1 ") for message in warnings)
    assert found["model", "check-broken/1"][0][0] == "FAIL"
    assert found["model", "check-forbidden/1"][0][0] == "warn"
    assert 'needs the loader "evil.loader"' in found["model", "check-forbidden/1"][0][1]
    assert found["model", "check-unversioned"][0][0] == "warn"
    assert found["files", "check-index/1"][0][0] == "FAIL"
    [(level, message)] = found["environment", "Python 3.99"]
    assert (level, "which is not found on this machine" in message) == ("FAIL", True)
    installed = version("scikit-learn")
    ours = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    assert found["environment", ours] == [
        ("ok", f"is to be built, for check-other: the service's own lacks scikit-learn==0.1 ({installed} is here)")
    ]
    assert found["environment", "the service's own"] == [("ok", "for check-empty")]
    # It has no model among its files.
    code, found = check(url, "--models", "check-empty", XDG_CACHE_HOME=str(tmp_path))
    assert code == 1
    [(level, message)] = found["model", "check-empty/1"]
    assert (level, message.startswith("can't be loaded: ")) == ("FAIL", True)


def test_credentials(basic_auth_registry: BasicAuthServer) -> None:
    """A wrong password fails; with the right one the model is scored, by a row that is made: it has no example."""
    variables = {"PRINZ_REGISTRY__USERNAME": basic_auth_registry.user, "PRINZ_REGISTRY__PASSWORD": "wrong-pa55word"}
    code, found = check(basic_auth_registry.url, **variables)
    [(level, message)] = found["registry", f"default {basic_auth_registry.url}"]
    assert (code, level, "the credentials are missing or wrong" in message) == (1, "FAIL", True)
    assert "wrong-pa55word" not in str(found)
    code, found = check(
        basic_auth_registry.url, **{**variables, "PRINZ_REGISTRY__PASSWORD": basic_auth_registry.password}
    )
    assert code == 0, found
    [(level, message)] = found["model", "typed/1"]
    assert (level, message.startswith("a row made from its signature was scored in ")) == ("ok", True)


REGISTER = """
import sys
import mlflow
import pandas as pd
from mlflow.models import infer_signature

mlflow.set_tracking_uri(sys.argv[1])

class Picky(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if not model_input["word"].str.startswith("known").all():
            raise ValueError("a word that is not known")
        return [1.0] * len(model_input)

def log(name, example):
    signature = infer_signature([{"word": "known"}], [1.0])
    mlflow.pyfunc.log_model(
        name=name, python_model=Picky(), signature=signature, input_example=example, pip_requirements=["mlflow"],
        registered_model_name=f"picky-{name}",
    )

log("known", [{"word": "known word"}])
log("unknown", [{"word": "word"}])
log("none", None)

class Halving(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"] / 2

example = pd.DataFrame({"x": [1.0, 2.0]})
mlflow.pyfunc.log_model(
    name="observed", python_model=Halving(), signature=infer_signature(example, pd.DataFrame({"y": [1, 2]})),
    pip_requirements=["mlflow"], registered_model_name="picky-observed",
)
mlflow.MlflowClient().set_model_version_tag("picky-observed", "1", "prinz.outputs", "observed")
"""


def test_examples(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """A model that fails on its own example fails; one without, which refuses a made row, is not scored.

    One whose outputs may be observed is scored with those.
    """
    register(scratch_registry.url, REGISTER, tmp_path)
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PRINZ_SCORING__ALLOW_OBSERVED_OUTPUTS": "true"}
    code, found = check(scratch_registry.url, "--models", "picky-*", **variables)
    lines = {where.split("/")[0]: line for (what, where), [line, *_] in found.items() if what == "model"}
    assert (code, {name: level for name, (level, _) in lines.items()}) == (
        1,
        {"picky-known": "ok", "picky-unknown": "FAIL", "picky-none": "warn", "picky-observed": "ok"},
    )
    assert lines["picky-known"][1].startswith("its input example was scored in ")
    assert lines["picky-unknown"][1].startswith("can't be loaded: it fails on its input example: ")
    assert lines["picky-none"][1].startswith("no example: not scored (a made row is refused: ")


def predictions(request: Request) -> Reply:
    """Answer rows of one number each with that number."""
    try:
        body = json.loads(request.body)
    except ValueError:
        return Reply(b"{}", 400)
    if "inputs" in body:
        return Reply(json.dumps({"predictions": body["inputs"]["alcohol"]}).encode())
    rows = body.get("dataframe_split", {"data": []})["data"]
    return Reply(json.dumps({"predictions": [row[0] for row in rows]}).encode(), 200 if rows else 404)


def test_models_elsewhere(scratch_registry: RegistryWriter, tmp_path: Path) -> None:
    """A model that an endpoint scores is asked for there, and nothing of it is downloaded."""
    scratch_registry.create_model("elsewhere")
    scratch_registry.create_version("elsewhere")
    with ModelServer() as server:
        server.respond = predictions
        variables = {
            "PRINZ_ENDPOINTS__E__URLS": server.url,
            "PRINZ_ENDPOINTS__E__MODELS": "elsewhere",
            "XDG_CACHE_HOME": str(tmp_path),
        }
        code, found = check(scratch_registry.url, "--models", "elsewhere", **variables)
    assert code == 0, [line for lines in found.values() for line in lines if line[0] == "FAIL"]
    assert found["endpoint", f"e {server.url}"] == [("ok", "answers")]
    [(level, message)] = found["model", "elsewhere/1"]
    assert (level, message.startswith("a row made from its signature was scored in ")) == ("ok", True)
    assert not list(tmp_path.iterdir())
