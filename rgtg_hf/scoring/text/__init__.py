"""Rewards of whole texts: of models with another tokenizer, of encoders, and of functions."""
