"""References are made of frames, written beside a pair, and checked when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_pair import add_reference, random_frames, reference_outputs, write_tiny_pair

from serving.errors import PairInvalidError
from serving.monitoring.drift_reference import (
    REFERENCE_FILE,
    Reference,
    load_reference,
    make_reference,
    reference_bytes,
)
from serving.pairs.pair import load_pair


def test_bins_hold_equal_shares_and_every_score_falls_into_one() -> None:
    reference = make_reference(np.linspace(0, 1, 1001), np.zeros((1001, 3)))
    np.testing.assert_allclose(reference.edges, np.arange(1, 10) / 10)
    assert reference.counts.sum() == 1001
    assert set(reference.counts) <= {100, 101}
    np.testing.assert_array_equal(
        reference.bin_counts(np.array([0.0, 0.1001, 0.0999, 0.95, 1.0])), [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    )


def test_equal_scores_leave_fewer_bins() -> None:
    scores = np.array([0.2] * 50 + [0.8] * 50)
    reference = make_reference(scores, np.zeros((100, 1)))
    np.testing.assert_array_equal(reference.counts, [50, 50])
    assert make_reference(np.full(9, 0.3), np.zeros((9, 1))).n_bins == 1


def test_embeddings_are_described_and_still_dimensions_do_not_explode() -> None:
    generator = np.random.default_rng(1)
    values = np.stack([generator.normal(3, 2, 5000), np.full(5000, 7.0)], 1)
    reference = make_reference(np.linspace(0, 1, 5000), values)
    np.testing.assert_allclose(reference.mean, values.mean(0))
    assert reference.scale[0] == pytest.approx(values[:, 0].std())
    # 1 % of the root mean square of both.
    assert reference.scale[1] == pytest.approx(0.01 * reference.scale[0] / np.sqrt(2))


def test_a_reference_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs frames"):
        make_reference(np.empty(0), np.empty((0, 4)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = write_tiny_pair(tmp_path)
    assert load_reference(load_pair(folder), "fp32") is None
    frames = random_frames(300)
    written = add_reference(folder, frames)["fp32"]
    read = load_reference(load_pair(folder), "fp32")
    assert read is not None
    np.testing.assert_array_equal(read.counts, written.counts)
    np.testing.assert_array_equal(read.edges, written.edges)
    np.testing.assert_allclose(read.mean, reference_outputs(frames)["embedding"].mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fp32_mean": np.zeros(5, np.float32), "fp32_scale": np.ones(5, np.float32)}, "5 dimensions"),
        ({"fp32_scale": np.zeros(4, np.float32)}, "scale must be positive"),
        ({"fp32_mean": np.full(4, np.nan, np.float32)}, "finite"),
        ({"fp32_edges": np.array([0.5, 0.5])}, "ascending"),
        ({"fp32_counts": np.array([1, 2])}, "one more bin"),
        ({"fp32_counts": np.array([[{}]], object)}, "no reference"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    folder = write_tiny_pair(tmp_path)
    add_reference(folder, random_frames(300))
    pair = load_pair(folder)
    with np.load(folder / REFERENCE_FILE) as archive:
        arrays = {**archive, **change}
    np.savez(folder / REFERENCE_FILE, **arrays)
    with pytest.raises(PairInvalidError, match=said):
        load_reference(pair, "fp32")


def test_a_variant_without_reference_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_pair(tmp_path)
    add_reference(folder, random_frames(300))
    with pytest.raises(PairInvalidError, match="no reference for int8"):
        load_reference(load_pair(folder), "int8")


def test_the_same_frames_give_the_same_bytes() -> None:
    def made() -> dict[str, Reference]:
        return {"fp32": make_reference(np.linspace(0, 1, 50), np.arange(100.0).reshape(50, 2))}

    assert reference_bytes(made()) == reference_bytes(made())
