"""`rgtg-hf evaluate`: compares steering with other methods on a user's own prompts."""
