"""Compares runs and writes one self-contained page about them."""
