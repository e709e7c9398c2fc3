"""The truth: a checkpoint as an untouched float32 network with its contract. Knows no exporter."""
