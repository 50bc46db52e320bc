"""How well models reconstruct recordings: ``snac-trainer evaluate``."""
