"""The toy of reaching obeys the contract of readers, and its task needs both eyes and ears."""

import numpy as np
import torch

from saccade.data.synthetic_reach import REACH, ReachConfig
from tests.contracts import check_reader

CONFIG = ReachConfig(episodes=8, length=30)


def test_holds_the_contract_of_readers() -> None:
    check_reader(CONFIG.build())


def test_actions_lead_from_state_to_state_and_to_the_square_of_the_instruction() -> None:
    data = CONFIG.build()
    for episode, task in enumerate(data.tasks):
        found = data.read(episode, np.arange(30), ())
        moved = found["state"][1:, :2] - found["state"][:-1, :2]
        torch.testing.assert_close(moved, REACH * found["action"][:-1, :2], atol=1e-6, rtol=0)
        assert torch.equal(found["state"][1:, 3], found["action"][:-1, 6])
        ends = {
            colour: np.abs(squares[episode] - found["state"][-1, :2].numpy()).max()
            for colour, squares in data.squares.items()
        }
        told = task.split()[3]
        assert ends[told] < 0.05 < 0.2 < min(v for k, v in ends.items() if k != told)
        assert found["action"][0, 6] == 1
        assert found["action"][-1, 6] == 0
    assert set(data.tasks) == {"go to the red square", "go to the blue square"}


def test_the_square_of_the_instruction_is_on_either_side() -> None:
    data = ReachConfig(episodes=40).build()
    for colour, squares in data.squares.items():
        sides = squares[:, 0] < 0.5
        assert 8 < sides.sum() < 32, colour
    assert (
        np.sign(data.squares["red"][:, 0] - 0.5) != np.sign(data.squares["blue"][:, 0] - 0.5)
    ).all()


def test_the_wrist_sees_what_is_around_the_hand() -> None:
    data = ReachConfig(episodes=1, length=30, image_size=40).build()
    for frame in (0, 29):
        seen = data.read(0, np.array([frame]))["video"][0].float()
        yellow = (seen[:, 0] > 150) & (seen[:, 1] > 150)
        rows, columns = np.nonzero(yellow[1].numpy())
        assert abs(rows.mean() - 19.5) < 1
        assert abs(columns.mean() - 19.5) < 1
        rows, columns = np.nonzero(yellow[0].numpy())
        place = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / 40
        np.testing.assert_allclose(place, data.state[0, frame, :2], atol=0.02)
