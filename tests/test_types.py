"""The shared interfaces, and whether the contracts notice what is wrong with a toy of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from saccade.checkpoint import save_model
from saccade.config import Config
from saccade.data.episodes import Frames, Subset
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.errors import CheckpointError
from saccade.types import Clip, Encoder, Objective, Preprocessing
from tests.contracts import check_encoder, check_objective, check_reader

SIZE, PATCH, DIM = 8, 4, 6


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config["Toy"]):
    def build(self) -> "Toy":
        return Toy()


class Toy(Encoder):
    """One linear layer on patches of one frame."""

    embed_dim = DIM
    preprocessing = Preprocessing(num_frames=1, image_size=SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.to_token = nn.Linear(3 * PATCH**2, DIM)

    def forward(self, video: Tensor) -> Tensor:
        return self.to_token(patches(video))


class ToyObjective(Objective):
    """Predict the last frame's patches from the first frame's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Toy()
        self.head = nn.Linear(DIM, 3 * PATCH**2)

    def terms(self, clip: Clip) -> Mapping[str, Tensor]:
        guess = self.head(self.encoder(self.inputs(clip)["now"]))
        return {"pixels": (guess - target(clip)).square().mean()}

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        return {"encoder": (self.encoder, ToyConfig())}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        return {"now": clip["video"][:, :1, 0]}

    def without_target(self, clip: Clip) -> Clip:
        video = clip["video"].clone()
        video[:, -1] = 255 - video[:, -1]
        return Clip(**{**clip, "video": video})

    def baselines(self, clip: Clip) -> Mapping[str, Tensor]:
        return {"copy": (patches(clip["video"][:, :1, 0]) - target(clip)).square().mean()}


def patches(video: Tensor) -> Tensor:
    return rearrange(video / 255, "b t c (i p) (j q) -> b t (i j) (c p q)", p=PATCH, q=PATCH)


def target(clip: Clip) -> Tensor:
    return patches(clip["video"][:, -1:, 0])


@pytest.fixture
def clip() -> Clip:
    torch.manual_seed(0)
    return Clip(
        video=torch.randint(256, (4, 2, 1, 3, SIZE, SIZE), dtype=torch.uint8),
        state=torch.zeros(4, 2, 4),
        action=torch.zeros(4, 1, 4),
        is_pad=torch.zeros(4, 1, dtype=torch.bool),
        gap=torch.ones(4, dtype=torch.int64),
        episode=torch.arange(4),
        key=torch.arange(4),
        text=["push"] * 4,
    )


def test_pooling_is_per_time_step() -> None:
    tokens = torch.arange(12.0).view(1, 2, 3, 2)  # two steps of three tokens
    toy = Toy()
    assert toy.pool(tokens).tolist() == [[2, 3, 8, 9]]
    toy.pooling = "cls"
    assert toy.pool(tokens).tolist() == [[0, 1, 6, 7]]


def test_an_encoder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    toy = Toy().train()
    toy.save_pretrained(tmp_path, ToyConfig(), card="# Toy")
    loaded = Encoder.from_pretrained(tmp_path)
    video = torch.randint(256, (2, 1, 3, SIZE, SIZE), dtype=torch.uint8)
    assert torch.equal(loaded(video), toy(video))
    assert not loaded.training


def test_another_pixel_contract_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    Toy().save_pretrained(tmp_path, ToyConfig())
    monkeypatch.setattr(Toy, "preprocessing", Preprocessing(num_frames=1, image_size=16))
    with pytest.raises(CheckpointError, match="was trained on"):
        Encoder.from_pretrained(tmp_path)


@dataclass(frozen=True, kw_only=True)
class LinearConfig(Config[nn.Linear]):
    def build(self) -> nn.Linear:
        return nn.Linear(1, 1)


def test_what_is_no_encoder_is_not_loaded_as_one(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(1, 1), LinearConfig(), {})
    with pytest.raises(CheckpointError, match="holds a Linear, not an encoder"):
        Encoder.from_pretrained(tmp_path)


def test_the_loss_is_the_sum_of_its_terms(clip: Clip, monkeypatch: Any) -> None:
    slope = torch.tensor(2.0, requires_grad=True)
    terms = {"a": slope, "b": 3 * slope}
    monkeypatch.setattr(ToyObjective, "terms", lambda *_: terms)
    loss, scalars = ToyObjective()(clip)
    loss.backward()
    assert (loss.item(), slope.grad) == (8.0, torch.tensor(4.0))
    assert {name: value.item() for name, value in scalars.items()} == {"a": 2.0, "b": 6.0}
    assert not any(value.requires_grad for value in scalars.values())


def test_the_contracts_accept_good_toys(clip: Clip) -> None:
    check_encoder(Toy(), clip["video"][:, :1, 0])
    check_objective(ToyObjective(), clip)
    episodes = SyntheticConfig(episodes=3, length=6, image_size=8).build()
    check_reader(episodes)
    check_reader(Subset(episodes, [2, 0]))


ENCODER_FAULTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mixes the batch": lambda tokens, _: tokens - tokens.mean(0),
    "ignores pixels": lambda tokens, _: torch.zeros_like(tokens),
    "another width": lambda tokens, _: tokens[..., 1:],
    "no time axis": lambda tokens, _: tokens[:, 0],
    "not finite": lambda tokens, _: tokens / 0,
    "random": lambda tokens, _: tokens + torch.rand_like(tokens),
    "writes into its input": lambda tokens, video: tokens + 0 * video.zero_().sum(),
}


@pytest.mark.parametrize("fault", ENCODER_FAULTS)
def test_the_contract_notices_a_faulty_encoder(clip: Clip, fault: str, monkeypatch: Any) -> None:
    good = Toy.forward
    monkeypatch.setattr(Toy, "forward", lambda s, v: ENCODER_FAULTS[fault](good(s, v), v))
    with pytest.raises((AssertionError, IndexError)):
        check_encoder(Toy(), clip["video"][:, :1, 0])


def dead_head(objective: ToyObjective, clip: Clip) -> Mapping[str, Tensor]:
    tokens = objective.encoder(objective.inputs(clip)["now"])
    return {"mean": (tokens.mean((1, 2, 3)) - target(clip).mean((1, 2, 3))).square().mean()}


def random_loss(objective: ToyObjective, clip: Clip) -> Mapping[str, Tensor]:
    return {"noise": (objective.head.weight * torch.rand(())).square().sum()}


IDLE = Toy()
OBJECTIVE_FAULTS: Mapping[str, tuple[str, Callable[..., Any], str]] = {
    "leak": ("inputs", lambda _, clip: {"now": clip["video"][:, -1:, 0]}, "leaks into {'now'}"),
    "no target": ("without_target", lambda _, clip: clip, "no target was replaced"),
    "no baseline": ("baselines", lambda *_: {}, "trivial prediction"),
    "bad picture": ("pictures", lambda *_: {"now": torch.full((1, 3, 2, 2), 2.0)}, "now"),
    "randomness": ("terms", random_loss, "global seed"),
    "dead head": ("terms", dead_head, "no gradient reaches"),
    "idle export": ("exports", lambda *_: {"idle": (IDLE, ToyConfig())}, "no gradient .* idle"),
    "wrong export": ("exports", lambda self: {"x": (self.encoder, LinearConfig())}, "not fit"),
}


@pytest.mark.parametrize("fault", OBJECTIVE_FAULTS)
def test_the_contract_notices_a_faulty_objective(clip: Clip, fault: str, monkeypatch: Any) -> None:
    method, broken, told = OBJECTIVE_FAULTS[fault]
    monkeypatch.setattr(ToyObjective, method, broken)
    with pytest.raises((AssertionError, CheckpointError), match=told):
        check_objective(ToyObjective(), clip)


class Wrapping(Synthetic):
    """Takes frame -1 for the last one."""

    def read(
        self, episode: int, frames: np.ndarray, cameras: Sequence[str] | None = None
    ) -> Frames:
        return super().read(episode, np.asarray(frames) % self.config.length, cameras)


class Sorting(Synthetic):
    """Returns frames in file order."""

    def read(
        self, episode: int, frames: np.ndarray, cameras: Sequence[str] | None = None
    ) -> Frames:
        return super().read(episode, np.sort(frames), cameras)


@pytest.mark.parametrize("faulty", [Wrapping, Sorting])
def test_the_contract_notices_a_faulty_reader(faulty: type[Synthetic]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_reader(faulty(SyntheticConfig(episodes=1, length=6, image_size=8)))
