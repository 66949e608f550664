"""Discovers, describes and scores the models of an MLflow registry over gRPC."""

__version__ = "0.1.0"

__all__ = ["__version__"]
