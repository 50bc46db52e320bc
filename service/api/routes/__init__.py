"""The calls of the HTTP API: each parses, hands over, and answers."""
