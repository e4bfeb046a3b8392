"""The stages of the command `relprop explain`."""
