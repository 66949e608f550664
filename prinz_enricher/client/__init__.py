"""The Python client of the service; it needs neither mlflow nor httpx."""

from prinz_enricher.client.async_client import AsyncClient
from prinz_enricher.client.client import Client
from prinz_enricher.client.connection import Tls
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.client.row_forms import Rows
from prinz_enricher.client.scores import Scores
from prinz_enricher.client.service_error import ServiceError

__all__ = ["AsyncClient", "Client", "ModelReference", "Rows", "Scores", "ServiceError", "Tls"]
