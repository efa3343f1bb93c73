"""Effects. Several clusters in one run: the division, the claims in the store, the jobs that are sent."""
