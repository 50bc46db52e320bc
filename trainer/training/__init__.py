"""A training run: what it would do, its loop, its judgement, and what it publishes."""
