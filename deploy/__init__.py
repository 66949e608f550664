"""What an environment of prinz-enricher is made of, with Docker and without."""
