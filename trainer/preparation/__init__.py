"""Makes a dataset of recordings from any source: ``snac-trainer prepare``."""
