"""Effects. Looking after a store: probes put together, digests checked, what nothing points to removed."""
