"""`rgtg-hf demo`: trains a small reward model and steers a real language model with it."""
