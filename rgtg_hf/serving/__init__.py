"""Guided generation in serving engines."""
