"""Methods that guide a generator while it draws, or start it elsewhere."""
