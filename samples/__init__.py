"""Sample models like those of Prinz: two for the quality of wine and one for fraud, trained in seconds."""

import os

# Before MLflow is imported: it would report that models are trained here, and its thread for that changes the
# environment while others read it, which fails a request now and then (KeyError: _MLFLOW_TELEMETRY_SESSION_ID).
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
