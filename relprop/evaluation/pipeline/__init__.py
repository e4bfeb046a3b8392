"""The stages of an evaluation, from the masking run to the file."""
