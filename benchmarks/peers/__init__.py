"""Our service beside its peers, under the same load: `make bench-peers`."""
