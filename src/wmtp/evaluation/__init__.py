"""Samples, outcomes, metrics: what a checkpoint can do."""
