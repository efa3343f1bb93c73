"""Effects. What a model's files say, trusted with nothing; standard library only."""
