"""The wire contract `prinz.enricher.v1`: modules generated from `proto/` by `make proto`, never edited by hand."""
