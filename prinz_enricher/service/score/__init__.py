"""`Score`: requests read against a signature, handed to the pool, and answered."""
