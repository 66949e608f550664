"""`python -m prinz_enricher.cli`."""

from prinz_enricher.cli import main

main()
