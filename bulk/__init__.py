"""Corpora into tokens, with Ray Data."""
