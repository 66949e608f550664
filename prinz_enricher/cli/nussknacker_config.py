"""`prinz-enricher nussknacker-config`: the settings of Nussknacker's own OpenAPI enricher and its fields, as HOCON."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import click
import httpx

from prinz_enricher.cli.service_connection import hints, printable, security_options
from prinz_enricher.client import ServiceError, Tls
from prinz_enricher.client.connection import BearerToken
from prinz_enricher.config import is_loopback

_DOCUMENT: Final = "/nussknacker/openapi.json"
_SECONDS: Final = 30.0
_MANDATORY: Final = '[{ type: "MandatoryParameterValidator" }]'
_FEW: Final = 20
"""Fields of a list's records that its hint names."""


def _root(ctx: click.Context, param: click.Parameter, value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment):
        raise click.BadParameter("write a URL such as http://localhost:8080", ctx, param)
    return value.rstrip("/")


def _variable(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise click.BadParameter("write the name of a variable such as PRINZ_TOKEN", ctx, param)
    return value


@click.command("nussknacker-config")
@click.option(
    "--api",
    default="http://localhost:8080",
    envvar="PRINZ_API_URL",
    show_envvar=True,
    callback=_root,
    help="URL of the HTTP API.",
)
@click.option(
    "--url", default="", show_default=False, callback=_root, help="Its URL for the designer.  [default: --api]"
)
@click.option("--root-url", default="", show_default=False, callback=_root, help="For engines.  [default: --url]")
@click.option(
    "--token-variable", default="PRINZ_TOKEN", callback=_variable, help="Variable of Nussknacker that has its token."
)
@click.option("--name", default="prinz", help="Name of the component provider.")
@click.option(
    "--docs-url",
    default="",
    show_default=False,
    metavar="URL",
    help="Page of a model, such as https://mlflow.example.com/#/models/{name}; each enricher links to it.",
)
@security_options
def nussknacker_config(
    api: str, url: str, root_url: str, token_variable: str, name: str, docs_url: str, **security: Any
) -> None:
    """Print the configuration of Nussknacker 1.18 that offers the models as enrichers, without a jar.

    It goes into scenarioTypes.<type>.modelConfig, and has labels, hints and validators of the fields, by the models'
    signatures as they are now. What can't be offered is named on standard error.
    """
    document = _fetch(api, **security)
    try:
        provider = _provider(document, name, url or api, root_url, token_variable)
        for line in (*provider, *_fields(document, docs_url)):
            click.echo(line)
        for one in document.get("x-left-out", []):
            model = f"{one['model']}@{one['alias']}" if one["alias"] else one["model"]
            click.echo(printable(f"left out: {model}: {one['reason']}"), err=True)
    except (AttributeError, KeyError, TypeError) as error:
        raise click.ClickException(f"{api}{_DOCUMENT} is not what this version of prinz-enricher serves") from error


# The document.


def _fetch(api: str, tls: Tls | None, token: Path | None, *, insecure: bool) -> dict[str, Any]:
    parts = urlsplit(api)
    encrypted = parts.scheme == "https"
    if tls is not None and not encrypted:
        raise click.UsageError("--api is not an https:// URL, and the options of TLS are for those")
    if token is not None and not (encrypted or insecure or is_loopback(str(parts.hostname))):
        raise click.ClickException(f"the token would be sent to {parts.netloc} unencrypted: use https, or --insecure")
    try:
        headers = dict(BearerToken(token).metadata())
        extensions = {"sni_hostname": tls.server_name} if tls is not None and tls.server_name else {}
        with httpx.Client(verify=_context(tls) if encrypted else True, trust_env=False, timeout=_SECONDS) as client:
            answer = client.get(api + _DOCUMENT, headers=headers, extensions=extensions)
    except ServiceError as error:
        raise click.ClickException("\n".join([str(error), *hints(error, api)])) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except httpx.HTTPError as error:
        raise click.ClickException(f"{api} does not answer: {error}. --api names another URL") from None
    if answer.status_code != 200:
        raise click.ClickException(_refusal(api, answer))
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "paths" not in document:
        raise click.ClickException(f"{api}{_DOCUMENT} has no document: there is no HTTP API of prinz-enricher")
    return document


def _context(tls: Tls | None) -> ssl.SSLContext:
    tls = tls or Tls()
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.certificate is not None:
        context.load_cert_chain(str(tls.certificate), str(tls.key))
    return context


def _refusal(api: str, answer: httpx.Response) -> str:
    try:
        fault = answer.json()
        lines = [f"{fault['error']}: {fault['message']}"]
    except (ValueError, KeyError, TypeError):
        return f"{api}{_DOCUMENT} answers {answer.status_code}: there is no HTTP API of prinz-enricher"
    if answer.status_code == 401:
        lines.append("  --token-file, or PRINZ_TOKEN_FILE, names the file with the token.")
    return "\n".join(lines)


# HOCON.


def _quoted(text: str) -> str:
    """Return a text as a string of JSON, which is one of HOCON: nothing in it is replaced or controls a terminal."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(text, ensure_ascii=False))


def _provider(document: Mapping[str, Any], name: str, url: str, root_url: str, token_variable: str) -> Iterator[str]:
    yield "components {"
    yield f"  {_quoted(name)} {{"
    yield '    providerType: "openAPI"'
    yield f"    url: {_quoted(url + _DOCUMENT)}"
    yield f"    rootUrl: {_quoted(root_url or url)}"
    yield '    allowedMethods: ["POST"]'
    yield '    namePattern: "score-.*"'
    if document.get("security"):
        yield f'    security {{ bearer {{ type: "apiKey", apiKeyValue: "Bearer "${{{token_variable}}} }} }}'
    yield "  }"
    yield "}"


def _fields(document: Mapping[str, Any], docs_url: str) -> Iterator[str]:
    yield "componentsUiConfig {"
    for path, methods in document["paths"].items():
        operation = methods["post"]
        yield f"  {_quoted(operation['operationId'])} {{"
        if docs_url:
            model = unquote(path.split("/")[4])
            yield f"    docsUrl: {_quoted(docs_url.replace('{name}', quote(model, safe='')))}"
        yield "    params {"
        for name, label, hint, required in _params(operation):
            validators = f", validators: {_MANDATORY}" if required else ""
            yield f"      {_quoted(name)} {{ label: {_quoted(label)}, hintText: {_quoted(hint)}{validators} }}"
        yield "    }"
        yield "  }"
    yield "}"


def _params(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield the fields that Nussknacker makes of an operation: name, label, hint, and whether it needs a value."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    if schema["type"] == "object":
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            yield name, field["title"], field["description"], name in required
        return
    fields = schema["items"]["properties"].values()
    titles = ", ".join(field["title"] for field in list(fields)[:_FEW])
    more = f", and {len(fields) - _FEW} more" if len(fields) > _FEW else ""
    yield "body", "rows", f"list of records, required: {titles}{more}", True
