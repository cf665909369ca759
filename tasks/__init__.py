"""Units of work: read, one call into the ops, write, return rows and URIs."""
