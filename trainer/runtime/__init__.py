"""The process side of a run: ranks, signals, checkpoints and metrics files."""
