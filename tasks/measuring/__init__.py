"""Effects. Counts, flops, timings, and how far two models' answers lie apart."""
