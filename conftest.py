"""Effects. Makes the servers' fixtures known to every test, and says how long properties are tried and how many threads compute."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # workers of pytest share the cores; threads that wait for each other spin

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.plugin", "servers.stored"]

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile(
    "deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quick")
