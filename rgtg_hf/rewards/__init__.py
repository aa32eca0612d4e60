"""What a reward model is: a causal sequence classifier whose score is read at every prefix."""
