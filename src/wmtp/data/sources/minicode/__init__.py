"""The embedded benchmark: small Python problems, composed by a grammar."""
