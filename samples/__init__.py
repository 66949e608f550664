"""Sample models like those of Prinz: two for the quality of wine and one for fraud, trained in seconds."""
