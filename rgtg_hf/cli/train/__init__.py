"""`rgtg-hf train`: trains a prefix reward model."""
