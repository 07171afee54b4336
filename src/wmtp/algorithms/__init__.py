"""Weighting schemes, one file each: the only thing that varies between runs."""
