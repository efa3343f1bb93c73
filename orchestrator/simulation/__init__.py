"""Effects. A virtual cluster, clock and store under seeded weather."""
