"""Makes ready what a worker needs: the files of its model, and a Python environment where the service's does not suit.

Nothing here runs code of a model, and a worker gets paths alone. Models and environments are kept in caches that all
processes on a machine share.
"""
