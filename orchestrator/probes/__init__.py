"""Effects. What `doctor` looks at, property by property."""
