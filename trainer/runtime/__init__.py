"""What a run is to its machine: ranks, signals, checkpoints, and the figures it leaves."""
