import json
from pathlib import Path

import pytest
import torch

from saccade.checkpoint import read_weights, write_weights
from saccade.errors import CheckpointError, ConfigError
from saccade.types import Policy
from saccade.vla.loading import PublishedOpenVlaConfig
from saccade.vla.openvla import OpenVla
from saccade.vla.published import TOWERS, TRAINED, read_folder
from tests.vla.small import CONTRACT, SIDE, base, clip, policy


def loaded(folder: Path, **options: object):
    settings: dict = {"folder": folder, "frame": SIDE, **options}
    return PublishedOpenVlaConfig(**settings).build()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_tensor_of_a_published_folder_is_used(tmp_path: Path, family: str) -> None:
    """Each tensor is filled with a number of its own, and all of each are found in the model."""
    folder = base(tmp_path, family=family)
    theirs = read_weights(folder)
    filled = {name: torch.full_like(v, i + 2.0) for i, (name, v) in enumerate(theirs.items())}
    write_weights(folder, filled)
    found = loaded(folder)
    for name in [name for name, _ in found.named_buffers()]:
        assert name.startswith(("bounds", "frequency", "reference")) or "." in name
    numbers = torch.cat([value.flatten() for value in found.parameters()])
    values, counts = numbers.unique(return_counts=True)
    seen = dict(zip(values.tolist(), counts.tolist(), strict=True))
    for i, (name, value) in enumerate(theirs.items()):
        assert seen.pop(i + 2.0, 0) == value.numel(), name
    # what no file has: the class token's position and a mask, which are zero
    assert seen == {0.0: 2 * 32}
    assert {n.split(".")[0] for n in theirs} == {"vision_backbone", "projector", "language_model"}


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, change: str) -> None:
    folder = base(tmp_path)
    weights = dict(read_weights(folder))
    name = "vision_backbone.fused_featurizer.blocks.1.attn.qkv.weight"
    if change == "missing":
        del weights[name]
    elif change == "left over":
        weights["language_model.model.layers.9.extra"] = torch.zeros(1)
    else:
        weights["projector.fc2.weight"] = torch.zeros(3, 3)
    write_weights(folder, weights)
    wanted = {
        "missing": "eyes.towers.1.network.encoder.layers.1.self_attn",
        "left over": "extra",
        "of another shape": "eyes.projector.fc2.weight",
    }
    with pytest.raises(CheckpointError, match=wanted[change]):
        loaded(folder)


def test_a_trainings_file_is_read_as_the_hubs(tmp_path: Path) -> None:
    folder = base(tmp_path / "hub", family="qwen2")
    weights = dict(read_weights(folder))
    weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"]
    model: dict[str, dict[str, torch.Tensor]] = {}
    back = {hub: trained for trained, hub in reversed(TRAINED.items())}
    for name, value in weights.items():
        start = next(hub for hub in sorted(back, key=len, reverse=True) if name.startswith(hub))
        part, _, rest = (back[start] + name.removeprefix(start)).partition(".")
        model.setdefault(part, {})[rest.replace("scale_factor", "gamma")] = value
    assert set(model) == {"vision_backbone", "projector", "llm_backbone"}
    assert "projector.0.weight" in model["projector"]
    trained = tmp_path / "trained"
    (trained / "checkpoints").mkdir(parents=True)
    torch.save({"model": model}, trained / "checkpoints" / "latest-checkpoint.pt")
    settings = {"model": {"model_id": "prism-qwen25-extra-dinosiglip-224px+0_5b"}}
    (trained / "config.json").write_text(json.dumps(settings))
    one, two = loaded(folder), loaded(trained, tokenizer=folder)
    assert one.prompts.vocabulary == two.prompts.vocabulary
    assert one.language.config.rms_norm_eps == two.language.config.rms_norm_eps == 1e-6
    assert two.language.config.tie_word_embeddings
    for name, value in one.state_dict().items():
        other = two.state_dict()[name]
        assert torch.equal(value, other) or (value.isnan() == other.isnan()).all(), name
    with pytest.raises(CheckpointError, match="--tokenizer"):
        loaded(trained)


def split(folder: Path, out: Path, side: int = SIDE) -> tuple[Path, tuple[Path, Path]]:
    """Write an OpenVLA as a training that left its towers alone, and the towers as timm does."""
    weights = read_weights(folder)
    model: dict[str, dict[str, torch.Tensor]] = {"projector": {}, "llm_backbone": {}}
    towers: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, value in weights.items():
        if name.startswith(TOWERS):
            i = TOWERS.index(next(start for start in TOWERS if name.startswith(start)))
            bare = name.removeprefix(TOWERS[i]).replace("scale_factor", "gamma")
            towers[i][bare] = value.float()
        elif name.startswith("projector."):
            place = {"fc1": "0", "fc2": "2", "fc3": "4"}
            _, layer, leaf = name.split(".")
            model["projector"][f"projector.{place[layer]}.{leaf}"] = value
        else:
            model["llm_backbone"][name.replace("language_model.", "llm.", 1)] = value
    (out / "checkpoints").mkdir(parents=True)
    torch.save({"model": model}, out / "checkpoints" / "latest-checkpoint.pt")
    settings = {"model": {"vision_backbone_id": f"dinosiglip-vit-so-{side}px"}}
    (out / "config.json").write_text(json.dumps(settings))
    names = ("small_dinov2", "small_siglip")
    folders = (out / names[0], out / names[1])
    for name, place, tower in zip(names, folders, towers, strict=True):
        write_weights(place, tower)
        (place / "config.json").write_text(json.dumps({"architecture": name}))
    return out, folders


def test_towers_that_a_training_left_alone_are_timms(tmp_path: Path) -> None:
    folder = base(tmp_path / "hub", family="qwen2")
    bfloat = {k: v.bfloat16() for k, v in read_weights(folder).items()}
    write_weights(folder, bfloat)
    trained, towers = split(folder, tmp_path / "trained")
    one = loaded(folder, dtype="bfloat16").state_dict()
    two = loaded(trained, tokenizer=folder, towers=towers).state_dict()  # as wide as the rest
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.dtype == two[name].dtype, name
        assert torch.equal(value, two[name]) or (value.isnan() == two[name].isnan()).all(), name
    with pytest.raises(CheckpointError, match=r"timm/vit_large_patch14_reg4_dinov2.*--towers"):
        loaded(trained, tokenizer=folder)
    with pytest.raises(CheckpointError, match="has towers of its own"):
        loaded(folder, towers=towers)
    with pytest.raises(CheckpointError, match="projector of 2 towers; --towers names 1"):
        loaded(trained, tokenizer=folder, towers=towers[:1])
    with pytest.raises(CheckpointError, match=r"no ViT of timm"):
        loaded(trained, tokenizer=folder, towers=(folder, towers[1]))
    (trained / "config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(CheckpointError, match="names no pixels"):
        loaded(trained, tokenizer=folder, towers=towers)


def test_a_tower_of_another_size_is_brought_to_that_of_the_training(tmp_path: Path) -> None:
    folder = base(tmp_path / "hub", family="qwen2")
    trained, towers = split(folder, tmp_path / "trained", side=2 * SIDE)
    found = loaded(trained, tokenizer=folder, towers=towers)
    assert found.config.pixels.size == 2 * SIDE
    assert [tower.grid for tower in found.eyes.towers] == [2 * SIDE // 14] * 2


def test_bfloat16_stays_and_other_models_are_refused(tmp_path: Path) -> None:
    folder = base(tmp_path)
    write_weights(folder, {k: v.bfloat16() for k, v in read_weights(folder).items()})
    found = loaded(folder)
    kinds = {p.dtype for p in found.parameters()}
    assert kinds == {torch.bfloat16}
    found.bounds.set([-1.0] * 7, [1.0] * 7, [True] * 7, [False] * 7)
    assert found.losses(clip())["tokens"].isfinite()
    assert {p.dtype for p in loaded(folder, dtype="float32").parameters()} == {torch.float32}
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(CheckpointError, match="model_type 'llava'"):
        read_folder(folder)


def test_a_saved_policy_keeps_its_dtype_and_its_tied_table(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", family="qwen2")
    write_weights(folder, {k: v.bfloat16() for k, v in read_weights(folder).items()})
    found = loaded(folder)
    found.contract = CONTRACT
    found.save_pretrained(tmp_path / "policy", found.config)
    again = Policy.from_pretrained(tmp_path / "policy")
    assert isinstance(again, OpenVla)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    language = again.language
    assert language.lm_head.weight is language.model.embed_tokens.weight
    assert language.model.rotary_emb.inv_freq.dtype == torch.float32
    assert again.digests() == found.digests()


def test_statistics_choose_the_range_of_actions(tmp_path: Path) -> None:
    folder = base(tmp_path)
    names = {"bridge_orig": 2.0, "libero_spatial": 3.0}
    statistics = {
        name: {"action": {"q01": [-top] * 7, "q99": [top] * 7, "mask": [True] * 6 + [False]}}
        for name, top in names.items()
    }
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert loaded(folder).bounds.low.isnan().all()
    assert loaded(folder, statistics="libero_spatial").bounds.high.tolist() == [3.0] * 7
    with pytest.raises(ConfigError, match="bridge_orig, libero_spatial"):
        loaded(folder, statistics="libero_goal")


def test_a_tied_table_that_differs_is_damage(tmp_path: Path) -> None:
    folder = base(tmp_path, family="qwen2")
    weights = dict(read_weights(folder))
    table = weights["language_model.model.embed_tokens.weight"]
    write_weights(folder, weights | {"language_model.lm_head.weight": table + 1})
    with pytest.raises(CheckpointError, match="differ in its weights"):
        loaded(folder)


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    one = policy(tmp_path)
    two = loaded(tmp_path)
    for part, digest in one.digests().items():
        assert two.digests()[part] == digest
