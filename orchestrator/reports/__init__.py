"""Effects. Pages for people: a run's report, the morning's, their drawings, and what changed since the last one."""
