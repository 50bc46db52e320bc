"""What a model is to become better at: the named terms of the loss, and who judges."""
