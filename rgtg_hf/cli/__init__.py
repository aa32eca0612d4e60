"""The `rgtg-hf` command."""
