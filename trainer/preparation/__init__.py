"""From recordings, wherever they lie, to a dataset: ``snac-trainer prepare``."""
