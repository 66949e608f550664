"""The Python client of the service; it needs neither mlflow nor httpx."""

from prinz_enricher.client.async_client import AsyncClient
from prinz_enricher.client.client import Client
from prinz_enricher.client.connection import Tls
from prinz_enricher.client.errors import ServiceError
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.rows import Rows
from prinz_enricher.client.scores import Scores

__all__ = ["AsyncClient", "Client", "ModelReference", "Rows", "Scores", "ServiceError", "Tls"]
