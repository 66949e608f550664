"""Makes ready what a worker needs, and runs no code of it: the files of its model, and a Python environment."""
