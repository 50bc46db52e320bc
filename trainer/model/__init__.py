"""The network in training, where it starts, and what keeps its codebooks and weights well."""
