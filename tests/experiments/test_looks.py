import numpy as np
import pytest

from saccade.experiments.looks import SIDE, _square, coloured


def test_colours_tell_direction_and_strength() -> None:
    flow = np.array([[[[0.0, 0.0], [2.0, 0.0]], [[-2.0, 0.0], [np.nan, 1.0]]]])
    rest, right, left, unknown = coloured(flow, reach=2.0).reshape(4, 3).tolist()
    assert rest == [255, 255, 255]
    assert unknown == [153, 153, 153]
    assert right == [255, 0, 0]
    assert left == pytest.approx([0, 255, 255], abs=10), "the opposite hue"
    halfway = coloured(np.array([[[[1.0, 0.0]]]]), reach=2.0)[0, 0, 0]
    assert halfway == pytest.approx([255, 128, 128], abs=1)
    beyond = coloured(np.array([[[[9.0, 0.0]]]]), reach=2.0)[0, 0, 0].tolist()
    assert beyond == [255, 0, 0], "no stronger than strong"


@pytest.mark.parametrize("side", [4, 7, 96, 224])
def test_pictures_of_every_size_become_equal_squares(side: int) -> None:
    tile = np.zeros((side, side, 3), np.uint8)
    tile[: side // 2] = 200
    found = _square(tile)
    assert found.shape == (SIDE + 2, SIDE + 2, 3)
    assert (found[0] == 255).all(), "a rim"
    assert found[1, 1, 0] == 200
    assert found[SIDE, SIDE, 0] == 0
