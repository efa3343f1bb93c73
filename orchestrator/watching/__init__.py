"""Effects. What Prometheus sees: every metric, of a run while it lives and of a fleet always."""
