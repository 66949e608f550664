"""`prinz-enricher nussknacker-config`, by the HTTP API of a service; Typesafe's parser reads it in the Maven tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from prinz_enricher.cli import group
from prinz_enricher.config import TlsSettings
from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.signature import Field, ListOf, Record, Scalar, ScalarKind, Signature, Tensor
from tests.fronts.test_http_api import guarded
from tests.support.certificates import Authority
from tests.support.guarded_service import GuardedService, model_of
from tests.support.http_api import RunningApi, running_api

LONG = Scalar(ScalarKind.LONG)
INPUTS = (
    Field("fixed acidity", Scalar(ScalarKind.DOUBLE), description='g/l; "${HOME}"'),
    Field("n", LONG, required=False),
    Field("pixels", Tensor("float64", (-1, 28, 28))),
    Field("parts", ListOf(Record((Field("id", LONG), Field("größe", LONG, required=False))))),
    Field("a.b {\u202e\n", Scalar(ScalarKind.STRING)),
)
NAME = 'w "${PATH}" }'

EXPECTED = r"""components {
  "p\"x" {
    providerType: "openAPI"
    url: "http://prinz:8080/nussknacker/openapi.json"
    rootUrl: "https://engine.example/prinz"
    allowedMethods: ["POST"]
    namePattern: "score-.*"
  }
}
componentsUiConfig {
  "score-w____PATH____-112b2ed9-many" {
    docsUrl: "https://mlflow.example/#/models/w%20%22%24%7BPATH%7D%22%20%7D"
    params {
      "body" { label: "rows", hintText: "list of records, required: fixed acidity (double), n (long), pixels (tensor(float64, [-1, 28, 28])), parts (array), a.b {\u202e\n (string)", validators: [{ type: "MandatoryParameterValidator" }] }
    }
  }
  "score-w____PATH____-112b2ed9" {
    docsUrl: "https://mlflow.example/#/models/w%20%22%24%7BPATH%7D%22%20%7D"
    params {
      "fixed acidity" { label: "fixed acidity (double)", hintText: "double, required: g/l; \"${HOME}\"", validators: [{ type: "MandatoryParameterValidator" }] }
      "n" { label: "n (long)", hintText: "long, optional" }
      "pixels" { label: "pixels (tensor(float64, [-1, 28, 28]))", hintText: "tensor(float64, [-1, 28, 28]), required", validators: [{ type: "MandatoryParameterValidator" }] }
      "parts" { label: "parts (array)", hintText: "array(object(id: long, größe?: long)), required", validators: [{ type: "MandatoryParameterValidator" }] }
      "a.b {\u202e\n" { label: "a.b {\u202e\n (string)", hintText: "string, required", validators: [{ type: "MandatoryParameterValidator" }] }
    }
  }
}
"""  # noqa: E501 - as it is printed


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API of a service with one model, whose names are meant to break out of quotes."""
    with GuardedService() as service:
        model = model_of(NAME)
        [version] = model.versions
        signature = Signature(INPUTS, (Field("y", LONG),))
        service.catalog.change(replace(model, versions=(replace(version, signature=signature),), aliases={"x": "9"}))
        with running_api(service) as running:
            yield running


def run(*arguments: object, **variables: str) -> Result:
    """Run the command."""
    return CliRunner(env=variables).invoke(group, ["nussknacker-config", *map(str, arguments)])


def test_what_is_printed(api: RunningApi) -> None:
    """It has the provider and each field; names are text, whatever they hold; what is left out is told beside it."""
    result = run(
        *("--api", f"http://127.0.0.1:{api.port}/", "--url", "http://prinz:8080", "--name", 'p"x'),
        *("--root-url", "https://engine.example/prinz", "--docs-url", "https://mlflow.example/#/models/{name}"),
    )

    assert result.exit_code == 0, result.output
    assert result.stdout == EXPECTED
    assert result.stderr == f"left out: {NAME}@x: there is no version that is ready\n"


def test_with_tokens(tmp_path: Path) -> None:
    """The command sends its token, and what it prints takes Nussknacker's own from a variable."""
    token = tmp_path / "token"
    with guarded(tmp_path) as api:
        address = f"http://127.0.0.1:{api.port}"
        missing = run("--api", address)
        token.write_text("token-of-nk\n")
        result = run("--token-variable", "NK_TOKEN", PRINZ_API_URL=address, PRINZ_TOKEN_FILE=str(token))

    assert missing.exit_code == 1
    assert "components" not in missing.stdout
    assert "TOKEN_MISSING" in missing.stderr
    assert "--token-file" in missing.stderr
    assert result.exit_code == 0, result.output
    assert '    security { bearer { type: "apiKey", apiKeyValue: "Bearer "${NK_TOKEN} } }\n' in result.stdout
    assert f'    url: "{address}/nussknacker/openapi.json"\n    rootUrl: "{address}"\n' in result.stdout
    assert "score-fraud-a" in result.stdout
    assert "geheim" not in result.output


def test_by_tls(tmp_path: Path) -> None:
    """By TLS the server's certificate is verified, by the CA and the name that are given, and the client's is shown."""
    authority = Authority(tmp_path)
    pair, client = (
        authority.sign("server", addresses=["192.0.2.1"], dns_names=["prinz.example"]),
        authority.sign("client"),
    )
    settings = TlsSettings(certificate=str(pair.certificate), key=str(pair.key), client_ca=str(authority.file))
    files = CertificateFiles(settings)
    with GuardedService("wine") as service, running_api(service, tls=HttpTls(settings, files, required=True)) as api:
        address = f"https://127.0.0.1:{api.port}"
        known = ("--api", address, "--ca", authority.file, "--certificate", client.certificate, "--key", client.key)
        results = [run(*known, "--server-name", "prinz.example"), run(*known), run("--api", address)]

    assert results[0].exit_code == 0, results[0].output
    for refused in results[1:]:
        assert refused.exit_code == 1
        assert "certificate verify failed" in refused.output.lower()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--api", "localhost:8080"], 2, "write a URL such as http://localhost:8080"),
        (["--api", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 does not answer: "),
        (["--token-variable", "A}"], 2, "write the name of a variable"),
        (["--api", "http://127.0.0.1:9", "--tls"], 2, "--api is not an https:// URL"),
        (["--api", "http://192.0.2.1:80", "--token-file", __file__], 1, "would be sent to 192.0.2.1:80 unencrypted"),
    ],
)
def test_what_it_refuses(arguments: list[str], code: int, words: str) -> None:
    """What can't be right is said in one sentence."""
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr


def test_where_no_api_is(api: RunningApi) -> None:
    """An address of something else is said to be one."""
    result = run("--api", f"http://127.0.0.1:{api.port}/elsewhere")

    assert result.exit_code == 1
    assert "/elsewhere/nussknacker/openapi.json answers 404: there is no HTTP API of prinz-enricher" in result.stderr
