"""Effects. What layers see of the examples: moments, derivatives, Hessians, tokens of experts."""
