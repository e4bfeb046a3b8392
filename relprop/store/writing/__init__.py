"""The writing side of an evaluation's file."""
