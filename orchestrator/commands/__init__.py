"""Effects. The verbs of the command line."""
