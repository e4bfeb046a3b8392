"""Checks that relevance is computed correctly."""
