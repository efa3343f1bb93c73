"""Effects. Winning back a part of what pruning cost, each step undone where it does not help."""
