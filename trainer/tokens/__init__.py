"""What a tokenized corpus looks like: ``snac-trainer tokens-report``."""
