"""Evaluation of reconstructions: ``snac-trainer evaluate``."""
