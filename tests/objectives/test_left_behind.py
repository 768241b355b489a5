"""What outlives training of a world model: its predictor or adapters, never its frozen encoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.checkpoint import load_weights
from saccade.errors import CheckpointError
from saccade.models.lora import load_lora
from saccade.models.world_model import ActionWorldModel, PretrainedWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from tests.objectives.helpers import clip_batch
from tests.objectives.test_action_conditioned import LORA, TINY, built


def test_checkpoints_leave_the_frozen_encoder_out_and_resume_with_it() -> None:
    objective, other = built(), built(replace(TINY, lora=LORA))
    state = objective.state_dict()
    assert state
    assert not any("encoder.blocks" in name for name in state)
    again = TINY.build()  # other weights, and another encoder, which the config would name
    again.model.encoder.load_state_dict(objective.model.encoder.state_dict())
    load_weights(again, state, "a checkpoint")
    clip = clip_batch(4)
    assert torch.equal(again(clip)[0], objective(clip)[0])
    with pytest.raises(CheckpointError, match="left over"):
        load_weights(objective, other.state_dict(), "a checkpoint of adapters")


def test_a_trained_model_is_left_behind(tmp_path: Path) -> None:
    objective, clip = built(), clip_batch(4)
    saved = objective.save_exports(tmp_path)
    model = ActionWorldModel.from_pretrained(saved["world_model"])
    assert torch.equal(model.encode(clip["video"][:, :, 0]), objective.sample(clip).features)
    further = ActionConditionedConfig(model=PretrainedWorldModelConfig(folder=saved["world_model"]))
    assert torch.equal(further.build()(clip)[0], objective(clip)[0])


def test_adapters_alone_are_trained_and_left_behind(tmp_path: Path) -> None:
    clip = clip_batch(4)
    plain, adapted = built(), built(replace(TINY, lora=LORA)).eval()
    assert torch.equal(adapted(clip)[0], plain(clip)[0])  # before the first step
    learned = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(learned) == 2 * 4 * 2  # A and B of four maps in two blocks
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=0.1)
    for _ in range(3):
        adapted(clip)[0].backward()
        optimizer.step()
    saved = adapted.save_exports(tmp_path, step=3)
    assert load_lora(saved["adapters"], plain.model.predictor)["step"] == 3
    assert torch.equal(plain.eval()(clip)[0], adapted(clip)[0])
    with pytest.raises(CheckpointError, match="trained on the network"):
        load_lora(saved["adapters"], TINY.build().model.predictor)
