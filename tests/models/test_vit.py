import pytest
import torch

from saccade.errors import ConfigError
from saccade.models.vit import ViTConfig
from tests.contracts import check_encoder

TINY = ViTConfig(image_size=16, num_frames=4, patch=8, dim=24, depth=2, heads=2)


@pytest.fixture
def video() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8)


def test_contract(video: torch.Tensor) -> None:
    encoder = TINY.build()
    check_encoder(encoder, video)
    assert encoder(video).shape == (2, 2, 4, 24)
    assert encoder.pool(encoder(video)).shape == (2, 48)


def test_a_token_sees_its_own_tubelet_first(video: torch.Tensor) -> None:
    vit = TINY.build()
    changed = video.clone()
    changed[:, 2:4, :, 8:, :8] = 0  # second time step, lower-left patch
    different = (vit.embed(video) != vit.embed(changed)).any(-1)
    assert different[0].nonzero().flatten().tolist() == [1 * 4 + 2]


def test_a_clip_must_be_whole_tubelets() -> None:
    with pytest.raises(ConfigError, match="whole number of tubelets"):
        ViTConfig(image_size=30).build()
