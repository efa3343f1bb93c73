"""Effects. The gate: outcomes side by side, by slice; what they are evidence of; the verdict."""
