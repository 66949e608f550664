"""Talks to an MLflow registry over REST, and starts a private one for a local store; imports no MLflow."""

from prinz_enricher.registry.artifact_stores import StoreReader
from prinz_enricher.registry.auth import Access, open_access
from prinz_enricher.registry.entities import ModelVersion, RegisteredModel
from prinz_enricher.registry.errors import (
    AccessError,
    ArtifactsRefused,
    MlmodelUnreadable,
    PrivateServerError,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
    RegistryUnreadable,
)
from prinz_enricher.registry.private_server import PrivateServer, is_local_store, store_folder
from prinz_enricher.registry.registry_client import RegistryClient
from prinz_enricher.registry.unity import UnityClient

__all__ = [
    "Access",
    "AccessError",
    "ArtifactsRefused",
    "MlmodelUnreadable",
    "ModelVersion",
    "PrivateServer",
    "PrivateServerError",
    "RegisteredModel",
    "RegistryClient",
    "RegistryError",
    "RegistryRefused",
    "RegistryUnreachable",
    "RegistryUnreadable",
    "StoreReader",
    "UnityClient",
    "is_local_store",
    "open_access",
    "store_folder",
]
