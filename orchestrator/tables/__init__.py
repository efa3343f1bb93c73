"""Effects. Results and the tables that they are folded into: schemas, digests, Delta, SQL."""
