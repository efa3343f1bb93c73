"""Files that go up and come down through a network that breaks off, cuts and flips: whole, or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cases.faulty_networks import WORSE, Place, persist
from servers.fault_proxy import FAULTS, FaultProxy, Rates

from orchestrator.artifacts import download_artifact, upload_artifact
from orchestrator.domain import FailureClass
from orchestrator.errors import Damaged, PrunefleetError, StoreError, Unreachable
from orchestrator.schedule.retry import POLICY

pytestmark = pytest.mark.s3


def make_artifact(directory: Path, megabytes: tuple[int, ...]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "empty.txt").touch()
    generator = random.Random(0)
    for number, size in enumerate(megabytes):
        (directory / f"model-{number}.safetensors").write_bytes(generator.randbytes((size << 20) + number))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.usefixtures("short_pauses")
def test_artifacts_go_up_in_parts_and_come_down_equal_or_not_at_all(
    place: Place, proxy: FaultProxy, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "artifact", (1, 17, 40))
    proxy.reset(WORSE)
    (digest, _), _ = persist(lambda: upload_artifact(place.store, artifact))
    assert proxy.counts["flip_request"] > 0
    for number in range(3):
        proxy.reset(WORSE)
        for attempt in range(POLICY[FailureClass.STORAGE].tries):
            into = tmp_path / f"{number}-{attempt}"
            into.mkdir()
            try:
                download_artifact(place.store, digest, into)
            except (Damaged, StoreError, Unreachable):
                assert contents(into).items() <= contents(artifact).items(), "no file that is not whole"
                continue
            break
        assert contents(into) == contents(artifact)
    (tmp_path / "behind").mkdir()
    download_artifact(place.behind, digest, tmp_path / "behind")
    assert contents(tmp_path / "behind") == contents(artifact)


UPLOADS = {
    "begun, and the answer lost": Rates(reset_after=1, times=1, only="POST .*[?]uploads"),
    "begun, and the answer flipped": Rates(flip_answer=1, times=1, only="POST .*[?]uploads"),
    "a part refused": Rates(slow_down=1, times=5, only="PUT .*partNumber=2"),
    "parts flipped on the way": Rates(flip_request=1, times=4, only="PUT .*partNumber"),
    "a part sent, and the answer lost": Rates(reset_after=1, times=3, only="PUT .*partNumber=1"),
    "completed, and the answer lost": Rates(reset_after=1, times=1, only="POST .*uploadId"),
    "completed, and the answer lost many times": Rates(reset_after=1, times=4, only="POST .*uploadId"),
    "completed, and an error told": Rates(error_after=1, times=2, only="POST .*uploadId"),
    "completed, and the answer flipped": Rates(flip_answer=1, times=1, only="POST .*uploadId"),
    "completed by a flipped request": Rates(flip_request=1, times=1, only="POST .*uploadId"),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("moment", UPLOADS)
def test_an_upload_in_parts_survives_one_fault_at_each_moment(
    place: Place, proxy: FaultProxy, tmp_path: Path, moment: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(1).randbytes(17 << 20))
    proxy.reset(UPLOADS[moment])
    place.store.upload(file, "file")
    assert sum(proxy.counts.get(fault, 0) for fault in FAULTS) == UPLOADS[moment].times
    assert place.behind.get("file") == file.read_bytes()


DOWNLOADS = {
    "cut": Rates(cut=1, times=2, only="GET"),
    "flipped": Rates(flip_answer=1, times=1, only="GET"),
    "refused": Rates(slow_down=1, times=5, only="GET"),
    "reset": Rates(reset_after=1, times=5),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("fault", DOWNLOADS)
def test_a_download_is_repeated_until_it_is_whole(
    place: Place, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    data = random.Random(1).randbytes(20 << 20)
    place.behind.put("file", data)
    proxy.reset(DOWNLOADS[fault])
    place.store.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("rates", "error"),
    [(Rates(cut=1, only="GET"), Unreachable), (Rates(flip_answer=1, only="GET"), Damaged)],
    ids=["cut", "flipped"],
)
def test_what_is_never_whole_is_an_error_of_ours_and_leaves_no_file(
    place: Place, proxy: FaultProxy, tmp_path: Path, rates: Rates, error: type[PrunefleetError]
) -> None:
    place.behind.put("file", b"x" * (20 << 20))
    proxy.reset(rates)
    with pytest.raises(error, match="file"):
        place.store.download("file", tmp_path / "file")
    with pytest.raises(error, match="file"):
        place.store.get("file")
    assert list(tmp_path.iterdir()) == []
