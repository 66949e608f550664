"""A soak: mixed calls of a real service for a long time, while all around it fails and changes: `make soak`."""
