"""Effects. Units that are really taken out: what belongs together, what it is worth, the smaller model."""
