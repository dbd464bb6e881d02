"""Helpers, under the original's names."""
