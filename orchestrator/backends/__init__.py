"""Effects. What runs attempts: Ray, or child processes of this machine."""
