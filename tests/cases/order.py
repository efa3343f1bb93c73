"""Which files of tests begin: those with most to do.

Whole files are shared out among workers, and one of these at the end would run alone.
"""

SLOWEST = (
    "test_demo.py",
    "test_one_night.py",
    "test_ray_chaos.py",
    "test_two_clusters.py",
    "test_cutting.py",
    "test_folding_crashes.py",
    "test_folding.py",
    "test_faulty_s3.py",
    "test_registries_in_and_out.py",
    "test_every_registry.py",
    "test_simulated_nights.py",
    "test_sensitivity_exact.py",
    "test_night_on_s3.py",
    "test_ray_cluster.py",
    "test_every_effect.py",
    "test_object_store.py",
    "test_folding_processes.py",
    "test_python_api.py",
    "test_zoo.py",
)
