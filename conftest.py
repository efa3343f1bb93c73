"""Effects. Makes the servers' fixtures known to every test."""

pytest_plugins = ["servers.plugin", "servers.stored"]
