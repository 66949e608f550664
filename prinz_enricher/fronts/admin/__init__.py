"""The admin HTTP server: metrics, health probes, MLflow webhooks."""
