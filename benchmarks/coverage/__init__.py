"""Coverage: which architectures are captured, exact and conserved."""
