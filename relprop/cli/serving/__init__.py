"""A page where pictures are dropped on a model."""
