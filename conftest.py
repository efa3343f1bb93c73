"""Effects. Makes the servers' fixtures known to every test, and says how long properties are tried."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.plugin", "servers.stored"]

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile(
    "deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quick")
