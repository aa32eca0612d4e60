"""Measures the effect of guidance: gold reward, divergence from the policy and speed."""
