import json
from pathlib import Path

import pytest
import torch

from saccade.errors import CheckpointError
from saccade.models.pretrained import PretrainedConfig
from saccade.models.streams import StreamsConfig
from tests.models.test_vit import TINY


def test_a_saved_encoder_is_the_same_function(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = StreamsConfig(image_size=32, dim=24, depth=3, heads=2)
    video = torch.randint(256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    encoder = config.build()
    encoder.save_pretrained(tmp_path, config, card="# A card")
    loaded = PretrainedConfig(folder=tmp_path).build()
    assert torch.equal(loaded(video), encoder(video))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert (tmp_path / "README.md").read_text() == "# A card"


def test_another_pixel_contract_is_an_error(tmp_path: Path) -> None:
    TINY.build().save_pretrained(tmp_path, TINY)
    record = json.loads((tmp_path / "config.json").read_text())
    record["preprocessing"]["pixels"] = "float BGR"
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="float BGR"):
        PretrainedConfig(folder=tmp_path).build()
