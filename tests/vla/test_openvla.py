import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from saccade.errors import ConfigError
from saccade.types import Observation
from saccade.vla.openvla import beside, places
from tests.vla.small import CONTRACT, SIDE, TEXTS, clip, policy


def test_padding_changes_no_answer(tmp_path: Path) -> None:
    """Instructions of different length in one batch, and each alone."""
    found = policy(tmp_path)
    sample = clip(3)
    seen = found.observe(sample)
    texts = ["open", TEXTS[1], "push the red button and then close the door, please"]
    with torch.no_grad():
        together = found.act({**seen, "text": texts})
        wanted = found.wanted(sample)
        logits = found.answers(sample, {**seen, "text": texts}, wanted)
        for i, text in enumerate(texts):
            alone: Observation = {
                "video": seen["video"][i : i + 1],
                "state": seen["state"][i : i + 1],
                "text": [text],
            }
            assert found.act(alone).equal(together[i : i + 1])
            one = found.answers(
                {**sample, "key": sample["key"][i : i + 1]}, alone, wanted[i : i + 1]
            )
            assert (one[0] - logits[i]).abs().max() < 2e-5


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_is_generated_is_what_each_step_finds_likeliest(tmp_path: Path, family: str) -> None:
    """Without a cache: ask for one more token each time, and read the last row."""
    found = policy(tmp_path, family=family)
    torch.manual_seed(0)
    found.language.lm_head.weight.data.normal_()  # ids that differ
    seen = found.observe(clip(2))
    asked = found.ask(seen, None)
    table = found.language.get_input_embeddings()
    inputs, tokens = asked.embeddings, []
    with torch.no_grad():
        for _ in range(7):
            real = F.pad(asked.real, (0, len(tokens)), value=True)
            hidden = found.language.model(inputs_embeds=inputs, **places(real)).last_hidden_state
            tokens.append(found.language.lm_head(hidden[:, -1]).argmax(-1))
            inputs = torch.cat([inputs, table(tokens[-1])[:, None]], 1)
        expected = found.bounds.restore(found.tokens.decode(torch.stack(tokens, 1)))
        assert found.act(seen)[:, 0].equal(expected)
    assert len({tuple(row) for row in torch.stack(tokens, 1).tolist()}) > 0


def test_the_loss_is_the_cross_entropy_of_action_and_stop(tmp_path: Path) -> None:
    found = policy(tmp_path)
    sample = clip(2)
    wanted = found.wanted(sample)
    assert wanted[:, -1].tolist() == [2, 2]
    assert wanted[:, :7].min() >= 31744
    with torch.no_grad():
        logits = found.answers(sample, None, wanted)
        by_hand = -logits.log_softmax(-1).gather(2, wanted[..., None]).mean()
        assert found.losses(sample)["tokens"].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_picture_stands_after_the_first_real_token(tmp_path: Path) -> None:
    found = policy(tmp_path)
    seen = found.observe(clip(2))
    asked = found.ask({**seen, "text": ["open", TEXTS[2]]}, None)
    ids, real = found.prompts.batch(["open", TEXTS[2]], "left", torch.device("cpu"))
    picture = found.eyes(found.config.pixels.shown(seen["video"][:, :, 0]))
    words = found.language.get_input_embeddings()(ids)
    count = picture.shape[1]
    for i in range(2):
        start = int(real[i].int().argmax())
        assert asked.embeddings[i, start].equal(words[i, start])  # <s>
        assert asked.embeddings[i, start + 1 : start + 1 + count].equal(picture[i])
        assert asked.embeddings[i, start + 1 + count :].equal(words[i, start + 1 :])
        assert asked.real[i].tolist() == [False] * start + [True] * (ids.shape[1] + count - start)


def test_real_tokens_are_counted_behind_the_padding() -> None:
    real = torch.tensor([[False, False, True, True], [True, True, True, True]])
    assert beside(real, 2).int().tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert places(real)["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]  # type: ignore[union-attr]
    assert places(real, 1)["position_ids"].tolist() == [[1], [3]]  # type: ignore[union-attr]
    assert places(real[1:]) == {"attention_mask": None}


def test_the_floor_knows_how_often_each_token_occurs_and_no_more(tmp_path: Path) -> None:
    found = policy(tmp_path)
    action = torch.zeros(1000, 7)
    action[:500, 0] = 1.0
    found.count(action)
    sample = clip(2)
    sample["action"] = torch.zeros(2, 1, 7)
    # axis 0: half of 1,000 and one added to each of 256; the others: all of them
    half, whole = (501 / 1256), (1001 / 1256)
    expected = -(torch.tensor([half] + [whole] * 6).log().sum()) / 8
    assert found.floors(sample).item() == pytest.approx(expected.item(), rel=1e-5)


def test_scores_count_right_tokens_and_how_far_off_the_others_are(tmp_path: Path) -> None:
    found = policy(tmp_path)
    found.language.lm_head.weight.data.zero_()  # the first token is the answer to everything
    sample = clip(2)
    with torch.no_grad():
        for wanted, off in ((1.0, 0.0), (-1.0, 2 - 2 / 255)):
            sample["action"] = torch.full((2, 1, 7), wanted)
            scores = found.scores(sample)
            assert scores["action_error"].item() == pytest.approx(off, abs=1e-6)
            assert scores["token_accuracy"].item() == 0


def test_several_cameras_or_commands_are_refused(tmp_path: Path) -> None:
    found = policy(tmp_path)
    sample = clip(1)
    two = {**sample, "video": sample["video"].expand(1, 1, 2, 3, SIDE, SIDE)}
    with pytest.raises(ConfigError, match="one camera, not 2"):
        found.losses(two)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 commands"):
        found.losses({**sample, "action": torch.zeros(1, 3, 7)})


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    config = policy(tmp_path).config
    settings = {**json.loads(config.language), "hidden_size": 64}
    with pytest.raises(ConfigError, match="they belong to different models"):
        replace(config, language=json.dumps(settings)).build()
    with pytest.raises(ConfigError, match="nothing looks at more than 1"):
        replace(config, history=3).build()


def test_a_policy_without_a_contract_is_not_saved(tmp_path: Path) -> None:
    found = policy(tmp_path / "base")
    del found.contract
    with pytest.raises(ConfigError, match="no contract"):
        found.save_pretrained(tmp_path / "policy", found.config)
    assert CONTRACT.chunk == 1
