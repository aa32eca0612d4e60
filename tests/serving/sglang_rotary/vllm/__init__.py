"""Stands in for the one kernel of vLLM that SGLang looks for where it finds neither a GPU nor its own kernels."""
