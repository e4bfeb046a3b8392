"""From a model to its captured graph."""
