from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.types import Policy
from saccade.vla.openvla import OpenVla
from saccade.vla.swap import Mode, SwapConfig, fit_adapter, swap
from tests.vla.small import OURS, SIDE, clip, policy


def pictures(count: int = 30, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 3, 7, 7, generator=g)
    frames = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2) * 255
    return list(frames.to(torch.uint8).split(10))


def logits(found: OpenVla) -> torch.Tensor:
    with torch.no_grad():
        sample = clip()
        return found.answers(sample, None, found.wanted(sample))


def test_add_changes_no_bit_at_first(tmp_path: Path) -> None:
    found = policy(tmp_path)
    before, digests = logits(found), found.digests()
    assert swap(found, SwapConfig(mode="add", encoder=OURS)) is None
    assert logits(found).equal(before)
    for part in ("towers", "projector", "language"):
        assert found.digests()[part] == digests[part]
    branch = found.eyes.branch
    assert branch is not None
    assert branch.tower.grid == found.eyes.grid == 2
    with torch.no_grad():
        branch.map.weight += 0.1
    assert not logits(found).equal(before)


def test_replace_takes_all_towers_and_leaves_the_language_model_alone(tmp_path: Path) -> None:
    found = policy(tmp_path)
    language = found.digests()["language"]
    swap(found, SwapConfig(mode="replace", encoder=OURS))
    assert found.digests()["language"] == language
    assert [type(tower).__name__ for tower in found.eyes.towers] == ["EncoderTower"]
    assert found.eyes.projector.fc1.in_features == 48
    assert found.new_parts() == ("projector",)
    assert found.eyes(torch.zeros(1, 1, 3, SIDE, SIDE, dtype=torch.uint8)).shape == (1, 4, 32)


def test_an_encoder_may_keep_its_own_grid_only_where_it_stands_alone(tmp_path: Path) -> None:
    found = policy(tmp_path)
    swap(found, SwapConfig(mode="replace", encoder=OURS, keep_grid=True))
    assert found.eyes.grid == 4
    assert logits(found).shape[1] == 8
    with pytest.raises(ConfigError, match="side by side"):
        swap(policy(tmp_path), SwapConfig(mode="add", encoder=OURS, keep_grid=True))


def test_the_control_keeps_the_towers_and_draws_the_projector_anew(tmp_path: Path) -> None:
    found = policy(tmp_path)
    before = found.digests()
    swap(found, SwapConfig(mode="replace"))
    after = found.digests()
    assert (after["towers"], after["language"]) == (before["towers"], before["language"])
    assert after["projector"] != before["projector"]
    assert found.new_parts() == ("projector",)


def test_replace_one_starts_better_than_a_random_adapter(tmp_path: Path) -> None:
    found = policy(tmp_path)
    old = found.eyes.towers[0]
    before = found.digests()
    fit = swap(found, SwapConfig(mode="replace_one", encoder=OURS), lambda _: pictures(60))
    assert fit is not None
    assert fit.pictures == 60
    assert fit.held_out == 12
    after = found.digests()
    for part in ("projector", "language"):
        assert after[part] == before[part]
    ours: Any = found.eyes.towers[0]
    (batch,) = pictures(10, seed=1)
    with torch.no_grad():
        fitted = (ours(batch) - old(batch)).square().mean()
        torch.manual_seed(0)
        ours.adapter.reset_parameters()
        assert fitted < 0.8 * (ours(batch) - old(batch)).square().mean()


def test_the_fit_is_the_least_squares_solution(tmp_path: Path) -> None:
    """A tower that is a linear map of the encoder's features is found again."""
    found = policy(tmp_path)
    swap(found, SwapConfig(mode="replace_one", encoder=OURS), lambda _: pictures(60))
    tower: Any = found.eyes.towers[0]
    torch.manual_seed(3)
    truth = torch.nn.Linear(48, 32)

    class Old(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return truth(tower.features(video))

    fit = fit_adapter(tower, Old(), pictures(60))
    assert fit.r2 > 0.999


@pytest.mark.parametrize(("frames", "asked"), [("repeat", 1), ("history", 2)])
def test_the_fit_is_on_as_many_frames_as_will_be_shown(
    tmp_path: Path, frames: Any, asked: int
) -> None:
    counts = []

    def shown(count: int) -> list[torch.Tensor]:
        counts.append(count)
        return [each.repeat(1, count, 1, 1, 1) for each in pictures(60)]

    how = SwapConfig(mode="replace_one", encoder=OURS, frames=frames)
    swap(policy(tmp_path), how, shown)
    assert counts == [asked]


def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        swap(policy(tmp_path), SwapConfig(mode="replace_one", encoder=OURS), lambda _: pictures(5))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mode": "add"}, "--encoder"),
        ({"mode": "replace_one"}, "--encoder"),
        ({"mode": "keep", "encoder": OURS}, "keep changes nothing"),
        ({"mode": "replace_one", "encoder": OURS, "slot": 2}, "2 towers"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        swap(policy(tmp_path), SwapConfig(**settings))


@pytest.mark.parametrize("mode", ["keep", "replace", "replace_one", "add"])
@pytest.mark.parametrize("frames", ["repeat", "history"])
def test_a_swapped_policy_is_saved_and_loaded_whole(
    tmp_path: Path, mode: Mode, frames: Any
) -> None:
    found = policy(tmp_path / "base")
    encoder = None if mode == "keep" else OURS
    swap(
        found, SwapConfig(mode=mode, encoder=encoder, frames=frames, stride=3), lambda _: pictures()
    )
    found.save_pretrained(tmp_path / "policy", found.config)
    again = Policy.from_pretrained(tmp_path / "policy")
    assert isinstance(again, OpenVla)
    assert again.config == found.config
    wanted = (2, 3) if (frames, mode != "keep") == ("history", True) else (1, None)
    assert again.config.history == wanted[0]
    sample = clip(history=again.config.history)
    with torch.no_grad():
        seen = found.observe(sample)
        assert again.act(seen).equal(found.act(seen))


def test_a_clip_encoder_sees_motion_only_with_a_history(tmp_path: Path) -> None:
    sample = clip(history=2)
    kinds: Any = (("repeat", False), ("history", True))
    for frames, moves in kinds:
        found = policy(tmp_path / frames)
        swap(found, SwapConfig(mode="replace", encoder=OURS, frames=frames))
        other = {**sample, "video": sample["video"].clone()}
        other["video"][:, 0] = 255 - other["video"][:, 0]
        if frames == "repeat":  # the newest frame is the only one that is shown
            one, two = (
                {**c, "video": c["video"][:, 1:], "state": c["state"][:, 1:]}
                for c in (sample, other)
            )
        else:
            one, two = sample, other
        with torch.no_grad():
            same = found.act(found.observe(one)).equal(found.act(found.observe(two)))  # type: ignore[arg-type]
            tokens = [found.eyes(c["video"][:, :, 0]) for c in (one, two)]  # type: ignore[index]
        assert tokens[0].equal(tokens[1]) != moves
        assert same or moves
