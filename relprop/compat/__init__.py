"""Names of other libraries, built on those of relprop."""
