"""What tells a page of ours from any other. Apart, so that to look for it loads nothing heavy."""

__all__ = ["GENERATOR"]

GENERATOR = '<meta name="generator" content="rgtg_hf '
