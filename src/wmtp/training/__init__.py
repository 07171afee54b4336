"""Training: one loop for every algorithm, on transformers.Trainer."""
