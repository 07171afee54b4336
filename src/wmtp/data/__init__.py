"""From files to batches: sources, mutation, tokenizer, encoding, order."""
