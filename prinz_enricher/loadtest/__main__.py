"""A process of the generator; `prinz-enricher loadtest` starts it."""

from prinz_enricher.loadtest.generator import main

main()
