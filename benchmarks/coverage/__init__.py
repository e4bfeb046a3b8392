"""Which architectures are captured, exact and conserved."""
