"""Reward models: causal sequence classifiers whose score is read at every prefix."""
