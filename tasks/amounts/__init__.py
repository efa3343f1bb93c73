"""Effects. How much of each layer goes, under budgets and promises."""
