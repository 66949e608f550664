"""What runs in a model's own interpreter: it loads one model and scores record batches sent over a socket.

Of the package it imports `ipc` alone, so that both folders can be put into a model's environment, which may have Python
3.10 and MLflow 2.9. Nothing is imported here: a worker sets what pyarrow reads at its import before it imports it.
"""
