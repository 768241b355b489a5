"""A world of 4 x 4 pixels in which training takes milliseconds, importable by child processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade import sabotage
from saccade.config import Config
from saccade.errors import SaccadeError
from saccade.train.config import TrainConfig
from saccade.train.distributed import rank_and_world
from saccade.train.engine import Resume, Summary, train
from saccade.types import Clip, Encoder, Objective, Preprocessing

CONFIG = TrainConfig(
    samples=12 * 8,
    batch_size=8,
    lr=1e-2,
    log_every=1,
    eval_every=4,
    save_every=3,
    keep=2,
    device="cpu",
)
IDENTITY = {"objective": "toy", "data": {"fingerprint": "toy-0"}}


def clip_of(indices: list[int]) -> Clip:
    """Draw samples, each from its own index: the second frame is the first, shifted."""
    first = torch.stack(
        [
            torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(i))
            for i in indices
        ]
    )
    video = torch.stack([first, first.roll(1, -1)], dim=1)[:, :, None].to(torch.uint8)
    count = len(indices)
    return Clip(
        video=video,
        state=torch.zeros(count, 2, 3),
        action=torch.zeros(count, 1, 3),
        is_pad=torch.zeros(count, 1, dtype=torch.bool),
        gap=torch.ones(count, dtype=torch.int64),
        episode=torch.tensor(indices),
        key=torch.tensor(indices),
        text=["shift"] * count,
    )


CHILDREN = get_context("forkserver")  # with what tests.children has it import
HELD_OUT = [clip_of(list(range(1000, 1012))), clip_of(list(range(1012, 1018)))]


class Samples:
    """This rank's share of a list of samples without end."""

    samples_per_epoch = 64

    def __init__(self, batch_size: int = 8, wait: float = 0.0) -> None:
        self.batch_size, self.wait = batch_size, wait

    def batches(self, first_step: int) -> Iterator[Clip]:
        rank, world = rank_and_world()
        share, step = self.batch_size // world, first_step
        while True:
            time.sleep(self.wait)
            start = step * self.batch_size + rank * share
            yield clip_of([i % self.samples_per_epoch for i in range(start, start + share)])
            step += 1


@dataclass(frozen=True, kw_only=True)
class ToyEncoderConfig(Config["ToyEncoder"]):
    def build(self) -> "ToyEncoder":
        return ToyEncoder()


class ToyEncoder(Encoder):
    embed_dim = 16
    preprocessing = Preprocessing(num_frames=1, image_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(48, 16)

    def forward(self, video: Tensor) -> Tensor:
        return self.project(video[:, :1].flatten(2) / 255)[:, :, None]


class Shift(Objective):
    """Predict the second frame from the first; dropout is its noise, an EMA its after_step."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = ToyEncoder()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, 48)
        self.ema = nn.Parameter(torch.zeros(48), requires_grad=False)

    def predict(self, clip: Clip) -> Tensor:
        tokens = self.encoder(self.inputs(clip)["first"])
        return self.head(self.dropout(tokens.flatten(1)))

    def terms(self, clip: Clip) -> Mapping[str, Tensor]:
        target = clip["video"][:, 1].flatten(1) / 255
        return {"pixels": (self.predict(clip) - target).square().mean()}

    def after_step(self, step: int) -> None:
        self.ema.lerp_(self.head.bias.detach(), 0.1)

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        return {"encoder": (self.encoder, ToyEncoderConfig())}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        return {"first": clip["video"][:, :1, 0]}

    def without_target(self, clip: Clip) -> Clip:
        video = clip["video"].clone()
        video[:, 1] = 255 - video[:, 1]
        return Clip(**(clip | {"video": video}))  # pyright: ignore[reportArgumentType]

    def baselines(self, clip: Clip) -> Mapping[str, Tensor]:
        first, second = (clip["video"][:, i] / 255 for i in (0, 1))
        return {"copy": (first - second).square().mean()}


def shift(dropout: float = 0.1) -> Shift:
    torch.manual_seed(0)
    return Shift(dropout)


def run(
    run_dir: Path,
    objective: Objective | None = None,
    wait: float = 0.0,
    resume: Resume = False,
    allow_change: Sequence[str] = (),
    progress: Callable[..., None] | None = None,
    **changes: Any,
) -> Summary:
    """Train on the toy world."""
    config = replace(CONFIG, **changes)
    return train(
        objective or shift(),
        Samples(config.batch_size, wait),
        HELD_OUT,
        config,
        run_dir,
        identity=IDENTITY,
        resume=resume,
        allow_change=allow_change,
        progress=progress,
    )


def run_and_die(run_dir: Path, fatal_call: int) -> None:
    """Resume a run in this process, and die by SIGKILL in its n-th change of the disk."""
    calls = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    torch.set_num_threads(1)
    os.fsync = deadly(os.fsync)
    os.rename, os.replace, os.unlink = map(deadly, (os.rename, os.replace, os.unlink))
    run(run_dir, resume=True)


def run_slowly(run_dir: Path, wait: float) -> None:
    """Resume a run that waits for every batch, in this process."""
    exit_as_told(lambda: run(run_dir, wait=wait, resume=True))


def run_as_rank(
    rank: int, world: int, port: int, run_dir: Path, broken_rank: int, fault: str, changes: Any
) -> None:
    """Train as one of several gloo ranks; ``broken_rank`` meets a NaN in its third step."""
    os.environ[sabotage.VARIABLE] = fault
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    objective = Deep() if broken_rank < 0 else Breaks(step=3 if rank == broken_rank else -1)
    objective.unused = nn.Linear(2, 2)  # on purpose without gradient, as some objectives have
    exit_as_told(
        lambda: run(run_dir, objective, accumulate=2, resume=True, **changes),
        run_dir / f"error-{rank}.txt",
    )


class Deep(Shift):
    """It has blocks, which may be sharded, recomputed and compiled."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(dropout=0.0)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.gain = nn.Parameter(torch.ones(()))

    def predict(self, clip: Clip) -> Tensor:
        tokens = self.encoder(self.inputs(clip)["first"]).flatten(1)
        for layer in self.layers:
            tokens = tokens + self.gain * layer(tokens).tanh()
        return self.head(tokens)


def exit_as_told(work: Callable[[], object], told: Path | None = None) -> None:
    """Exit with an error's own code, as the command line does."""
    torch.set_num_threads(1)
    try:
        work()
    except SaccadeError as error:
        if told is not None:
            told.write_text(str(error))
        raise SystemExit(error.exit_code) from None


class Breaks(Shift):
    """Its head returns NaN in one step; -1 for never."""

    def __init__(self, step: int) -> None:
        torch.manual_seed(0)
        super().__init__(dropout=0.0)
        self.breaks_at, self.done = step, 0

    def predict(self, clip: Clip) -> Tensor:
        tokens = self.encoder(self.inputs(clip)["first"]).flatten(1)
        broken = self.training and self.done + 1 == self.breaks_at
        return self.head(tokens * float("nan") if broken else tokens)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.done = step
