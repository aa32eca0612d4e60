"""Guided generation in serving engines, and engines that write rollouts."""
