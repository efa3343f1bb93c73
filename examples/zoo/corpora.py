"""Effects. The zoo's data: passages of Python's manual and scikit-learn's digits, and the files made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from passages import SECTION_OF, Splits, split_passages
from settings import IMAGE_SIDE, PASSAGE_BYTES, SECTION_BYTES

SIDE = 8  # of scikit-learn's digits
BRIGHTEST = 16.0
TEST_DIGITS = 600
CALIBRATION_DIGITS = 128


@cache
def manual() -> Splits:
    """Passages for language models: 32 of each of 6 topics to test with, 8 to calibrate with."""
    return split_passages(PASSAGE_BYTES, chunk=4, test=8, calibration=2)


@cache
def sections() -> Splits:
    """Longer passages for the section classifier: 48 of each of 4 topics to test with, 16 to calibrate with."""
    splits = split_passages(SECTION_BYTES, chunk=2, test=24, calibration=8, seed=1)
    return Splits(
        passages=tuple(passage for passage in splits.passages if passage.topic in SECTION_OF),
        training={topic: chunks for topic, chunks in splits.training.items() if topic in SECTION_OF},
    )


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]]:
    """Pictures [n, 8, 8] with values from 0 to 1, labels [n], and the split of each."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("the zoo's digits come with scikit-learn: pip install 'prunefleet[zoo]'") from None
    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))
    splits = np.full(len(order), "train", dtype="<U11")
    splits[:TEST_DIGITS] = "test"
    splits[TEST_DIGITS : TEST_DIGITS + CALIBRATION_DIGITS] = "calibration"
    return (
        (loaded.images[order] / BRIGHTEST).astype(np.float32),
        loaded.target[order].astype(np.int64),
        splits,
    )


def enlarged(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, 8, 8] -> [n, 1, 16, 16], each pixel as a square of pixels."""
    factor = IMAGE_SIDE // SIDE
    return pictures.repeat(factor, axis=1).repeat(factor, axis=2)[:, None]


def write_all(directory: Path) -> None:
    """Write manual.jsonl, sections.jsonl, digits.parquet and digits_images.parquet: calibration and test splits."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_lines(
        directory / "manual.jsonl",
        ({"text": row.text, "split": row.split, "topic": row.topic} for row in manual().passages),
    )
    _write_lines(
        directory / "sections.jsonl",
        (
            {"text": row.text, "label": SECTION_OF[row.topic], "split": row.split, "topic": row.topic}
            for row in sections().passages
        ),
    )
    pictures, labels, splits = digits()
    held = splits != "train"
    _write_pictures(directory / "digits.parquet", pictures[held], labels[held], splits[held])
    _write_pictures(directory / "digits_images.parquet", enlarged(pictures[held]), labels[held], splits[held])


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_pictures(
    path: Path, pictures: NDArray[np.float32], labels: NDArray[np.int64], splits: NDArray[np.str_]
) -> None:
    flat = pictures.reshape(len(pictures), -1)
    ink = flat.mean(axis=1)
    table = pa.table(
        {
            "inputs": pa.array(list(flat), pa.list_(pa.float32())),
            "label": pa.array(labels, pa.int64()),
            "split": splits.tolist(),
            "digit": [str(label) for label in labels],
            "ink": np.where(ink > np.median(ink), "heavy", "light").tolist(),
        }
    )
    pq.write_table(table, path)
