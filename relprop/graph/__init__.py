"""The captured graph of ATen operations, and analyses of it."""
