"""Talks to an MLflow registry over REST, and starts a private one for a local store; imports no MLflow."""

from prinz_enricher.registry.artifact_stores import StoreReader as StoreReader
from prinz_enricher.registry.auth import Access as Access
from prinz_enricher.registry.auth import open_access as open_access
from prinz_enricher.registry.entities import ModelVersion as ModelVersion
from prinz_enricher.registry.entities import RegisteredModel as RegisteredModel
from prinz_enricher.registry.private_server import PrivateServer as PrivateServer
from prinz_enricher.registry.private_server import is_local_store as is_local_store
from prinz_enricher.registry.private_server import store_folder as store_folder
from prinz_enricher.registry.registry_client import RegistryClient as RegistryClient
from prinz_enricher.registry.registry_errors import AccessError as AccessError
from prinz_enricher.registry.registry_errors import ArtifactsRefused as ArtifactsRefused
from prinz_enricher.registry.registry_errors import MlmodelUnreadable as MlmodelUnreadable
from prinz_enricher.registry.registry_errors import PrivateServerError as PrivateServerError
from prinz_enricher.registry.registry_errors import RegistryError as RegistryError
from prinz_enricher.registry.registry_errors import RegistryRefused as RegistryRefused
from prinz_enricher.registry.registry_errors import RegistryUnreachable as RegistryUnreachable
from prinz_enricher.registry.registry_errors import RegistryUnreadable as RegistryUnreadable
from prinz_enricher.registry.unity import UnityClient as UnityClient
