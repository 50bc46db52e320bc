"""Statistics of a tokenized corpus: ``snac-trainer tokens-report``."""
