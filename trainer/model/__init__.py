"""The network in training: starting weights, codebook maintenance, EMA and fast layers."""
