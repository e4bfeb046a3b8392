"""From the tensors of a run to what the user holds."""
