"""Models to explain: where they come from, and how each is made."""
