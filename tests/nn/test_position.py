import math

import torch

from saccade.nn.position import sinusoid


def test_values_by_hand() -> None:
    table = sinusoid(3, 4)
    rate = 10000 ** (-2 / 4)
    expected = [math.sin(2), math.cos(2), math.sin(2 * rate), math.cos(2 * rate)]
    torch.testing.assert_close(table[2], torch.tensor(expected))
    assert table[0].tolist() == [0, 1, 0, 1]
