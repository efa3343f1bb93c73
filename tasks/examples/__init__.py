"""Effects. Data files, tokens and batches, fitted to a model."""
