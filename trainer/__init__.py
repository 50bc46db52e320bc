"""Curriculum fine-tuning of SNAC on one's own speech."""
