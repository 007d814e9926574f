"""The sample collection: what is in it, what its photos and datasheets look like, loading it."""
