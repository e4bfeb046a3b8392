"""From a graph and a rule set to a plan: one rule for each operation."""
