"""Statistics are those of numpy on all values at once."""

import json

import numpy as np
import pytest

from saccade.data.passes import statistics
from saccade.data.passes.statistics import (
    QUANTILES,
    Numbers,
    PixelCounts,
    describe,
    describe_counts,
    to_lists,
)
from saccade.errors import DataError


def test_pixels_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(3, 251, (n, 7, 5, 3)).astype(np.uint8) for n in (1, 4, 2)]
    parts[0][..., 2] = 9  # a colour with few levels
    one, other = PixelCounts(), PixelCounts()
    one.update(parts[0])
    one.update(parts[1])
    other.update(parts[2])
    found = (one + other).describe()
    pixels = np.concatenate(parts).reshape(-1, 3) / 255
    expected = {
        "min": pixels.min(0),
        "max": pixels.max(0),
        "mean": pixels.mean(0),
        "std": pixels.std(0),
        **{name: np.quantile(pixels, share, axis=0) for name, share in QUANTILES.items()},
    }
    assert found.pop("count").tolist() == [7]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == (3, 1, 1)
        np.testing.assert_allclose(found[name].ravel(), value, rtol=1e-12, err_msg=name)


def test_std_is_of_pixels_not_of_frame_means() -> None:
    """LeRobot 0.4.4 reports 0 for frames that are half black, half white; the truth is 0.5."""
    counts = PixelCounts()
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[:, 0] = 255
    counts.update(frames)
    assert counts.describe()["std"].ravel().tolist() == [0.5] * 3


def test_rows_by_hand() -> None:
    rows = np.array([[1.0, -2.0], [2.0, -2.0], [3.0, -2.0], [6.0, -2.0]], np.float32)
    found = to_lists(describe(rows))
    assert found["min"] == [1.0, -2.0]
    assert found["max"] == [6.0, -2.0]
    assert found["mean"] == [3.0, -2.0]
    assert found["std"] == [np.sqrt(3.5), 0.0]
    assert found["q50"] == [2.5, -2.0]
    np.testing.assert_allclose(found["q90"], [5.1, -2.0])
    assert found["count"] == [4]


def test_whole_numbers_keep_whole_ranges() -> None:
    found = to_lists(describe(np.array([[3], [5]])))
    assert (found["min"], found["max"], found["mean"]) == ([3], [5], [4.0])
    assert isinstance(found["min"][0], int)


def test_small_spread_around_a_large_mean_is_not_lost() -> None:
    """float32 sums would lose it."""
    rows = np.array([[1000.0], [1000.001]], np.float32)
    exact = rows.astype(np.float64)
    assert describe(rows)["std"] == exact.std(0)


def test_numbers_agree_with_numpy_whatever_the_order_and_the_parts() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1e-6, 1.0, -3e4, 0.0])
    episodes = [(rng.normal(size=(n, 4)) * scale).astype(np.float32) for n in (5, 0, 90, 31)]
    episodes[0][0, 1] = -0.0
    rows = np.concatenate(episodes)
    whole = counted(episodes)
    found, expected = whole.describe(), describe(rows)
    assert found.keys() == expected.keys()
    assert whole.quantile_error == 0
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-20, err_msg=name)
    backwards = counted(episodes[::-1])
    merged = counted(episodes[:1]) + (counted(episodes[3:]) + counted(episodes[1:3]))
    for other in (backwards, merged, Numbers.from_json(json.loads(json.dumps(whole.to_json())))):
        again = other.describe()
        assert all(np.array_equal(again[name], found[name]) for name in found)


def counted(episodes: list[np.ndarray]) -> Numbers:
    numbers = Numbers(4)
    for rows in episodes:
        numbers.update(rows)
    return numbers


def test_many_distinct_values_keep_quantiles_within_what_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the same bits come out of any order, however early resolution was given up."""
    monkeypatch.setattr(statistics, "DISTINCT", 400)
    monkeypatch.setattr(statistics, "PENDING", 100)
    rng = np.random.default_rng(1)
    episodes = [rng.normal(1, 3, (50, 4)).astype(np.float32) for _ in range(40)]
    whole = counted(episodes)
    found, expected = whole.describe(), describe(np.concatenate(episodes))
    assert 0 < whole.quantile_error < 0.05
    for name in QUANTILES:
        bound = whole.quantile_error * np.abs(expected[name])
        assert (np.abs(found[name] - expected[name]) <= bound + 1e-3).all(), name
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    for parts in (4, 7, 40):
        pieces = [counted(episodes[i::parts]) for i in range(parts)]
        merged = sum(pieces[1:], pieces[0]).describe()
        assert all(np.array_equal(merged[name], found[name]) for name in found)


def test_a_constant_has_no_spread_and_nothing_cannot_be_described() -> None:
    numbers = Numbers(2)
    for _ in range(1000):
        numbers.update(np.tile(np.array([0.1, -7e8], np.float32), (3, 1)))
    found = numbers.describe()
    assert found["std"].tolist() == [0.0, 0.0]
    assert found["q99"].tolist() == [float(np.float32(0.1)), -7e8]
    with pytest.raises(DataError, match="no frames"):
        Numbers(2).describe()


def test_counts_stand_for_their_values() -> None:
    values, counts = np.array([2, 3, 9]), np.array([4, 0, 3])
    found, expected = describe_counts(values, counts), describe(np.repeat(values, counts)[:, None])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
    assert (found["min"].dtype.kind, found["max"].tolist()) == ("i", [9])
