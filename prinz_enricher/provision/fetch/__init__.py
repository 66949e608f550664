"""Programs with MLflow's clients: short-lived processes that hold credentials, and run no code of a model.

They run in the service's own environment. The front starts them by `python -P -m`, and imports none of them: MLflow
costs it seconds and memory, and keeps credentials for a whole process.
"""
