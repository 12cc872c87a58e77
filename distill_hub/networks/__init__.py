"""Networks by name: the names, without what is heavy to import, and the untrained networks."""
