"""The operators, one small function each, by family; see `facex.exporters._mil.registry`."""
