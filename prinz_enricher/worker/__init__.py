"""What runs inside a model's own interpreter: it loads one model and scores record batches sent over a socket.

Imports nothing of the rest of the package, so that this folder alone can be put into a model's environment, which may
have Python 3.10 and MLflow 2.9. The front imports `frames` only; the other modules need mlflow.

Nothing is imported here: a worker sets what pyarrow reads at its import before it imports it.
"""
