"""A training run: dry run, pretraining, training loop, model selection and publishing."""
