"""The Python client of the service; it needs neither mlflow nor httpx."""

from prinz_enricher.client.client import Client, Scores
from prinz_enricher.client.errors import ServiceError
from prinz_enricher.client.reference import ModelReference

__all__ = ["Client", "ModelReference", "Scores", "ServiceError"]
