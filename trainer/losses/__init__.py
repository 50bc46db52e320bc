"""Training losses: the named terms, the discriminators and the loss balancer."""
