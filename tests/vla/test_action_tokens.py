import numpy as np
import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.vla.action_tokens import ActionTokens, Bounds, published_bounds

LLAMA = 32000


def test_the_ends_and_the_middle_of_the_vocabulary_by_hand() -> None:
    tokens = ActionTokens(LLAMA)
    # 256 edges, 2/255 apart: -1 is in bin 1, 0 lies between edges 128 and 129, 1 is edge 256
    found = tokens.encode(torch.tensor([-1.0, 0.0, 1.0, -7.0, 7.0]))
    assert found.tolist() == [31999, 32000 - 128, 31744, 31999, 31744]
    assert tokens.first == 31744
    middle = tokens.decode(torch.tensor([31999, 31745, 31744]))
    assert middle.tolist() == pytest.approx([-1 + 1 / 255, 1 - 1 / 255, 1 - 1 / 255])


def test_every_token_matches_numpys_digitize() -> None:
    edges = np.linspace(-1, 1, 256)
    values = np.concatenate([np.linspace(-1.1, 1.1, 4001), edges, np.nextafter(edges, -2)])
    expected = LLAMA - np.digitize(values.clip(-1, 1), edges)
    found = ActionTokens(LLAMA).encode(torch.from_numpy(values))
    assert (found.numpy() == expected).all()
    centres = (edges[:-1] + edges[1:]) / 2
    back = ActionTokens(LLAMA).decode(found).numpy()
    assert back == pytest.approx(centres[(LLAMA - expected - 1).clip(0, 254)], abs=1e-7)


def test_a_round_trip_moves_no_action_by_more_than_half_a_bin_and_no_token_at_all() -> None:
    tokens = ActionTokens(LLAMA)
    ids = torch.arange(31745, 32000)
    assert tokens.encode(tokens.decode(ids)).equal(ids)
    values = torch.linspace(-1, 1, 999)
    assert (tokens.decode(tokens.encode(values)) - values).abs().max() <= 1 / 255 + 1e-6


def test_a_token_that_is_no_action_becomes_the_nearest_one() -> None:
    tokens = ActionTokens(LLAMA)
    ends = tokens.decode(torch.tensor([31745, 31999]))
    assert tokens.decode(torch.tensor([2, 32063])).equal(ends)


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no tail of 256"):
        ActionTokens(256)


def bounds() -> Bounds:
    found = Bounds(3)
    found.set([-2.0, 0.0, 5.0], [2.0, 1.0, 5.0], [True, False, True], [False, False, True])
    return found


def test_quantiles_become_the_ends_a_gripper_stays_and_a_constant_axis_is_zero() -> None:
    action = torch.tensor([[-2.0, 1.0, 5.0], [2.0, 0.0, 5.0], [9.0, 0.5, 5.0], [0.0, 0.3, 4.0]])
    found = bounds().normalise(action)
    assert found.tolist()[0] == pytest.approx([-1, 1, 0])
    assert found.tolist()[1] == pytest.approx([1, 0, 0])
    assert found.tolist()[2] == pytest.approx([1, 0.5, 0])
    assert found.tolist()[3] == pytest.approx([0, 0.3, 0])


def test_commands_come_back_within_the_quantiles() -> None:
    action = torch.tensor([[-1.5, 0.2, 5.0]])
    found = bounds()
    assert found.restore(found.normalise(action)).tolist()[0] == pytest.approx([-1.5, 0.2, 5.0])


def test_bounds_that_nobody_set_are_an_error_that_says_how_to_set_them() -> None:
    with pytest.raises(ConfigError, match="--statistics KEY"):
        Bounds(2).restore(torch.zeros(1, 2))


def test_bounds_of_another_robot_are_refused() -> None:
    with pytest.raises(DataError, match="2 numbers for 3 axes"):
        Bounds(3).set([0.0, 0.0], [1.0, 1.0, 1.0], [True] * 3, [False] * 3)


STATISTICS = {
    "bridge_orig": {"action": {"q01": [-1, 0], "q99": [1, 1], "mask": [True, False]}},
    "fractal": {"action": {"q01": [-2, 0], "q99": [2, 1], "min": [0, 0], "max": [0, 1]}},
}


def test_statistics_are_found_by_their_key() -> None:
    found = published_bounds(STATISTICS, "bridge_orig")
    assert found == {
        "low": [-1, 0],
        "high": [1, 1],
        "scaled": [True, False],
        "constant": [False, False],
    }
    assert published_bounds(STATISTICS, "fractal")["constant"] == [True, False]
    assert published_bounds({"only": STATISTICS["fractal"]})["high"] == [2, 1]


@pytest.mark.parametrize("key", ["", "libero_goal"])
def test_a_wrong_key_names_those_that_there_are(key: str) -> None:
    with pytest.raises(ConfigError, match="bridge_orig, fractal"):
        published_bounds(STATISTICS, key)


def test_statistics_without_quantiles_are_refused() -> None:
    with pytest.raises(DataError, match="lack q01"):
        published_bounds({"a": {"action": {"mean": [0]}}})
