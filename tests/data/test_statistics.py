"""Statistics are those of numpy on all values at once."""

import numpy as np

from saccade.data.statistics import QUANTILES, PixelCounts, describe, to_lists


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
