"""The mathematics of operations that several rule sets share: their transposes, terms and winners."""
