"""Effects. Nights: when they come, once each, and what they leave behind."""
