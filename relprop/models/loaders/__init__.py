"""Classifiers from names, functions, exported programs and weight files."""
