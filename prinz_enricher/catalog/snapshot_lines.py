"""What is known of a registry as JSON values, one for each line of a file.

Models and versions are written as MLflow's REST API writes them, and read by the same readers; signatures as the wire's
message, each once. A signature comes back with the digest that it had, or not at all.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from google.protobuf.message import DecodeError

from prinz_enricher.catalog.assembly import Files
from prinz_enricher.catalog.reading import Reading
from prinz_enricher.catalog.snapshot import ModelFile
from prinz_enricher.contract import signature_pb2
from prinz_enricher.registry.entities import (
    EntityError,
    ModelVersion,
    RegisteredModel,
    read_model_version,
    read_registered_model,
)
from prinz_enricher.signature.types import Signature, SignatureError
from prinz_enricher.signature.wire import from_wire, to_wire


class StoredLinesError(ValueError):
    """The lines are not what was written."""


def write_lines(reading: Reading, files: Files) -> Iterator[dict[str, object]]:
    """Write what is known.

    Args:
        reading: What the registry listed.
        files: What MLmodel files hold, by name and number of the version; none that is pending.

    Yields:
        JSON values: a signature before the first version that has it, a model with all its versions.
    """
    versions: dict[str, list[ModelVersion]] = defaultdict(list)
    for version in reading.versions.values():
        versions[version.name].append(version)
    numbers: dict[bytes, int | None] = {}
    written = 0
    for model in reading.models.values():
        entries: list[dict[str, object]] = []
        for version in versions[model.name]:
            file = files.get((version.name, version.version))
            entry = _version_json(version)
            if file is not None:
                if file.signature is not None and file.fingerprint not in numbers:
                    text = _signature_text(file.signature)
                    numbers[file.fingerprint] = None if text is None else written
                    if text is not None:
                        written += 1
                        yield {"signature": text}
                number = numbers.get(file.fingerprint)
                if file.signature is None or number is not None:
                    entry["file"] = {
                        "flavors": list(file.flavors),
                        "fault": file.fault,
                        "signature": number,
                        "loader": file.loader,
                    }
            entries.append(entry)
        yield {"model": _model_json(model), "versions": entries}


def read_lines(lines: Iterable[Mapping[str, object]]) -> tuple[Reading, Files]:
    """Read what `write_lines` wrote.

    Args:
        lines: JSON values.

    Returns:
        What the registry listed, and what MLmodel files held.

    Raises:
        StoredLinesError: They are not as they were written.
    """
    models: dict[str, RegisteredModel] = {}
    versions: dict[tuple[str, str], ModelVersion] = {}
    files: dict[tuple[str, str], ModelFile] = {}
    signatures: list[Signature | None] = []
    try:
        for line in lines:
            if "signature" in line:
                signatures.append(_read_signature(line["signature"]))
                continue
            model = read_registered_model(line.get("model"))
            models[model.name] = model
            for entry in _list(line.get("versions")):
                version = read_model_version(entry)
                versions[version.name, version.version] = version
                file = _read_file(entry, signatures)
                if file is not None:
                    files[version.name, version.version] = file
    except EntityError as error:
        raise StoredLinesError(str(error)) from None
    return Reading(models, versions), files


def _model_json(model: RegisteredModel) -> dict[str, object]:
    return {
        "name": model.name,
        "description": model.description,
        "tags": [{"key": key, "value": value} for key, value in model.tags.items()],
        "aliases": [{"alias": alias, "version": number} for alias, number in model.aliases.items()],
        "creation_timestamp": model.created_ms,
        "last_updated_timestamp": model.updated_ms,
    }


def _version_json(version: ModelVersion) -> dict[str, object]:
    return {
        "name": version.name,
        "version": version.version,
        "description": version.description,
        "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
        "status": version.status,
        "status_message": version.status_message,
        "run_id": version.run_id,
        "source": version.source,
        "creation_timestamp": version.created_ms,
        "last_updated_timestamp": version.updated_ms,
        "current_stage": version.stage,
    }


def _signature_text(signature: Signature) -> str | None:
    """Return a signature as text; None where it can't be written exactly."""
    try:
        message = to_wire(signature, schemas=False)
        exact = from_wire(message).digest == signature.digest
    except ValueError:
        return None
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode() if exact else None


def _read_signature(text: object) -> Signature | None:
    """Read a signature; None where this version reads it otherwise than the one that wrote it."""
    if not isinstance(text, str):
        raise StoredLinesError("A signature is no text.")
    try:
        message = signature_pb2.Signature.FromString(base64.b64decode(text, validate=True))
        signature = from_wire(message)
    except (binascii.Error, DecodeError) as error:
        raise StoredLinesError("A signature can't be read.") from error
    except SignatureError:
        return None
    return signature if signature.digest == message.digest else None


def _read_file(entry: object, signatures: list[Signature | None]) -> ModelFile | None:
    file = entry.get("file") if isinstance(entry, Mapping) else None
    if file is None:
        return None
    if not isinstance(file, Mapping):
        raise StoredLinesError("A file is no object.")
    flavors, fault, number = _list(file.get("flavors")), file.get("fault"), file.get("signature")
    if not isinstance(fault, str) or not all(isinstance(flavor, str) for flavor in flavors):
        raise StoredLinesError("A file has no fault or flavors.")
    loader = str(file.get("loader", ""))
    if number is None:
        return ModelFile(None, tuple(map(str, flavors)), fault, loader=loader)
    if not isinstance(number, int) or not 0 <= number < len(signatures):
        raise StoredLinesError("A file has an unknown signature.")
    signature = signatures[number]
    return None if signature is None else ModelFile(signature, tuple(map(str, flavors)), fault, loader=loader)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise StoredLinesError("A list is none.")
    return value
