"""From a program and inputs to tensors."""
