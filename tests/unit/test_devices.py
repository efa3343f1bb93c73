"""Attempts that run at once have devices of their own, and give them back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.devices import VISIBLE, Devices, divided
from orchestrator.domain import Pool


def gpu_pool(name="gpu", gpus=4.0, each=1.0):
    return Pool(
        name=name, cpus=64.0, gpus=gpus, memory_bytes=None, cpus_per_shard=1.0, gpus_per_shard=each, label_selector={},
        price_per_hour=0.0,
    )  # fmt: skip


def test_every_slot_has_a_device_of_its_own_and_gives_it_back():
    pool = gpu_pool()
    devices = Devices(divided([pool], None))
    taken = [devices.take(f"a{number}", pool)[VISIBLE] for number in range(4)]
    assert taken == ["0", "1", "2", "3"]
    devices.give_back("a2")
    devices.give_back("a2")
    assert devices.take("a4", pool) == {VISIBLE: "2"}


def test_a_shard_of_several_devices_sees_all_of_them():
    pool = gpu_pool(each=2.0)
    devices = Devices(divided([pool], None))
    assert [devices.take(name, pool)[VISIBLE] for name in "ab"] == ["0,1", "2,3"]


def test_shards_of_half_a_device_are_spread_evenly():
    pool = gpu_pool(gpus=2.0, each=0.5)
    devices = Devices(divided([pool], None))
    assert [devices.take(name, pool)[VISIBLE] for name in "abcd"] == ["0", "1", "0", "1"]


def test_pools_of_one_machine_have_devices_of_their_own(make_pool):
    pools = [gpu_pool("fast", 2.0), make_pool(), gpu_pool("slow", 1.0)]
    assert divided(pools, None) == {"fast": ("0", "1"), "cpu": (), "slow": ("2",)}
    assert Devices(divided(pools, None)).take("a", pools[1]) == {}


def test_devices_are_named_as_whoever_began_the_run_was_shown_them():
    pools = [gpu_pool("fast", 2.0), gpu_pool("slow", 2.0)]
    assert divided(pools, "GPU-a, GPU-b,GPU-c") == {"fast": ("GPU-a", "GPU-b"), "slow": ("GPU-c", "GPU-a")}
    assert Devices(divided(pools, "")).take("a", pools[0]) == {}, "what hides all devices stays as it is"


@given(turns=st.lists(st.booleans(), max_size=40), each=st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_no_device_has_more_users_than_its_share_allows(turns, each):
    pool = gpu_pool(each=each)
    devices = Devices(divided([pool], None))
    running: list[str] = []
    for number, begins in enumerate(turns):
        if begins and len(running) < pool.slots:
            devices.take(f"a{number}", pool)
            running.append(f"a{number}")
        elif running:
            devices.give_back(running.pop(number % len(running)))
        users = [device for held in devices.held.values() for device in held]
        assert all(users.count(device) <= max(1, round(1 / each)) for device in set(users))
