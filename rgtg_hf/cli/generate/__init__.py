"""`rgtg-hf generate`: writes text from a guided policy, to the terminal or to a file."""
