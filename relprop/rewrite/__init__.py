"""From a plan to a relevance program."""
