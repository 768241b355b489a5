"""How an encoder is shown one frame (fingerprints: test_world_model.py)."""

from dataclasses import replace

import pytest
import torch

from saccade.errors import ConfigError
from saccade.models.one_frame import grid_of, repeats
from saccade.models.streams import StreamsConfig
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.types import Encoder
from tests.models.test_world_model import CONFIG, PREDICTOR, VIT, video

OPEN = replace(PREDICTOR, grid=(0, 0), feature_dim=0)


def test_a_predictor_takes_grid_and_width_of_its_encoder() -> None:
    model = replace(CONFIG, predictor=OPEN).build()
    assert model.config == CONFIG
    assert model.encode(video()).shape == (2, 3, 16, 24)
    pooled = replace(CONFIG, predictor=OPEN, tokens="pooled").build()
    assert pooled.config.predictor.grid == (1, 1)
    assert pooled.encode(video()).shape == (2, 3, 1, pooled.config.predictor.feature_dim)


def test_a_frame_is_shown_as_often_as_the_encoder_needs() -> None:
    tubelet = VJepa2Config(image_size=32, patch=8, dim=48, depth=1, heads=2, mlp=96)
    assert repeats(tubelet.build()) == 2
    assert repeats(replace(tubelet, frames="each").build()) == 1
    pair = StreamsConfig(image_size=32, dim=24, depth=3, heads=2).build()
    assert repeats(pair) == pair.preprocessing.num_frames == 2


def test_sizes_are_known_without_weights() -> None:
    with torch.device("meta"):
        encoder = ViTConfig(image_size=32, patch=4, dim=24, depth=1, heads=2).build()
    assert grid_of(encoder, pooled=False) == ((8, 8), 24)


class Row(Encoder):
    """Gives six tokens of a frame."""

    preprocessing = VIT.build().preprocessing

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(video), 1, 6, 8)


def test_tokens_that_make_no_square_need_a_grid() -> None:
    with pytest.raises(ConfigError, match="6 features of a frame, which is no square"):
        grid_of(Row(), pooled=False)
