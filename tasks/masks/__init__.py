"""Pure. Score and pattern: which weights go, to the exact count, and what those that stay make up for."""
