from dataclasses import replace

import pytest
import torch
from einops import rearrange

from saccade.models.vit import ViTConfig
from saccade.nn.masking import Mask
from saccade.objectives.video_mae import VideoMAE, VideoMAEConfig
from tests.contracts import check_objective
from tests.objectives.helpers import batch, clip_batch, moved_inputs, with_video

TINY = VideoMAEConfig(
    encoder=ViTConfig(image_size=32, patch=8, dim=24, depth=2, heads=2),
    decoder_dim=24,
    decoder_depth=1,
    decoder_heads=2,
    contrast_floor=0.02,
)
CLIPS = replace(TINY, encoder=replace(TINY.encoder, num_frames=4), mask_ratio=0.9)


def test_contract() -> None:
    torch.manual_seed(0)
    check_objective(TINY.build(), batch())


def test_contract_on_clips() -> None:
    torch.manual_seed(0)
    check_objective(CLIPS.build(), clip_batch(4))


def test_hidden_pixels_are_not_an_input() -> None:
    assert moved_inputs(TINY.build(), batch()) == set()
    assert moved_inputs(CLIPS.build(), clip_batch(4)) == set()


def test_what_is_replaced_is_exactly_what_is_predicted() -> None:
    objective, clip = CLIPS.build(), clip_batch(4)
    changed = objective.without_target(clip)["video"] != clip["video"]
    hidden = objective.mask(clip).hide.shape[1]
    assert changed.sum().item() == 4 * hidden * 2 * 3 * 8 * 8


def test_the_loss_ignores_predictions_of_visible_tubes_by_construction() -> None:
    objective, clip = TINY.build(), batch()
    mask = objective.mask(clip)
    assert objective.predict(clip, mask).shape == (4, 12, 3 * 2 * 8 * 8)
    assert objective.target(clip, mask).shape == (4, 12, 3 * 2 * 8 * 8)


def test_published_size_and_mask() -> None:
    with torch.device("meta"):
        objective = VideoMAEConfig().build()
        # 94,801,536 minus the never-trained cls projection (590,592) plus key biases, which
        # softmax ignores and the authors leave out (12 * 768 + 4 * 384)
        expected = 94_801_536 - 590_592 + 12 * 768 + 4 * 384
        assert sum(p.numel() for p in objective.parameters()) == expected
    full = VideoMAEConfig(encoder=ViTConfig(dim=12, depth=1, heads=1), decoder_depth=0).build()
    assert full.mask(batch()).hide.shape[1] == 147


def test_parity_with_transformers() -> None:
    """Same loss and gradients as Hugging Face's VideoMAEForPreTraining, weights mapped."""
    from transformers import VideoMAEConfig as TheirConfig
    from transformers import VideoMAEForPreTraining

    torch.manual_seed(0)
    clip, ours = clip_batch(4), replace(CLIPS, mask_ratio=0.75, contrast_floor=1e-6).build()
    theirs = VideoMAEForPreTraining(
        TheirConfig(
            image_size=32,
            patch_size=8,
            num_frames=4,
            tubelet_size=2,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=96,
            decoder_hidden_size=24,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=96,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=1e-5,
            use_mean_pooling=False,
        )
    )
    copy_weights(ours, theirs)
    mask = ours.mask(clip)
    hidden = torch.zeros(4, 32, dtype=torch.bool).scatter_(1, mask.hide, True)
    video = clip["video"][:, :, 0].float() / 255
    output = theirs((video - ours.encoder.mean) / ours.encoder.std, bool_masked_pos=hidden)
    in_order = Mask(keep=mask.keep.sort(1).values, hide=mask.hide.sort(1).values)
    torch.testing.assert_close(ours.predict(clip, in_order), output.logits, rtol=1e-4, atol=1e-5)
    loss, _ = ours(clip)
    torch.testing.assert_close(loss, output.loss, rtol=1e-4, atol=1e-5)


def copy_weights(ours: VideoMAE, theirs: torch.nn.Module) -> None:
    """Fill our model with the weights of a Hugging Face one."""
    source = {name: value.detach() for name, value in theirs.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}

    def block(to: str, start: str) -> None:
        part = f"{start}.attention.attention"
        qkv = [source[f"{part}.{name}.weight"] for name in ("query", "key", "value")]
        q, v = source[f"{part}.query.bias"], source[f"{part}.value.bias"]
        weights[f"{to}.attn.qkv.weight"] = torch.cat(qkv)
        weights[f"{to}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        for name, theirs_name in {
            "attn.proj": "attention.output.dense",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.0": "intermediate.dense",
            "mlp.2": "output.dense",
        }.items():
            for kind in ("weight", "bias"):
                weights[f"{to}.{name}.{kind}"] = source[f"{start}.{theirs_name}.{kind}"]

    for i in range(2):
        block(f"encoder.blocks.{i}", f"videomae.encoder.layer.{i}")
    block("decoder.0", "decoder.decoder_layers.0")
    kernel = source["videomae.embeddings.patch_embeddings.projection.weight"]
    weights["encoder.to_token.weight"] = rearrange(kernel, "d c t y x -> d (t y x c)")
    weights["encoder.to_token.bias"] = source[
        "videomae.embeddings.patch_embeddings.projection.bias"
    ]
    weights["to_decoder.weight"] = source["encoder_to_decoder.weight"]
    weights["blank"] = source["mask_token"].flatten()
    for kind in ("weight", "bias"):
        weights[f"encoder.norm.{kind}"] = source[f"videomae.layernorm.{kind}"]
        weights[f"norm.{kind}"] = source[f"decoder.norm.{kind}"]
        weights[f"to_pixels.{kind}"] = source[f"decoder.head.{kind}"]
    ours.load_state_dict(weights, strict=True)


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_the_flat_guess_scores_about_one(ratio: float) -> None:
    objective = replace(TINY, mask_ratio=ratio, contrast_floor=1e-6).build()
    noise = with_video(batch(), torch.randint(256, (4, 2, 1, 3, 32, 32), dtype=torch.uint8))
    assert objective.baselines(noise)["flat"].item() == pytest.approx(1, abs=0.02)
