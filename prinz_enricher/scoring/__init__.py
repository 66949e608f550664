"""Scoring: the `WorkerPool` port, its queue policy, the life of versions, and what runs models."""
