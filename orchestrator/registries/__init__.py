"""Effects. Models found, fetched, published; aliases."""
