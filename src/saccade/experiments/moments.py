"""Moments of recorded episodes, as a world model sees them: what landscapes and plans start from.

A moment is drawn at the model's own rate by timestamps, cropped as in training, its gripper in the
model's sense, its true action measured between the poses of the frames it was drawn from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes
from saccade.data.windows import ClipWindow, Starts
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.evals.planning import Moment
from saccade.experiments.source import Parts, Report, SourceConfig
from saccade.models import lora
from saccade.models.world_model import RATE, ActionWorldModel

Part = Literal["train", "select", "test", "unseen", "unseen scenes", "all"]
TOGETHER = 16  # moments that are encoded at once
ADAPTERS = ("", "adapters")  # where in a folder that a user names its adapters are


@dataclass(frozen=True, kw_only=True)
class MomentsConfig:
    """Which moments a model is asked about.

    Args:
        part: ``test`` episodes, split as in training by ``split_seed``; ``all`` does not split,
            for data that no model was trained on.
        episodes: most episodes, evenly spread over those there are; 0 takes all.
        per_episode: moments of each, evenly spread; 0 takes all.
        horizon: actions from the present to the goal.
        context: frames that the model looks back on, the present among them.
    """

    part: Part = "test"
    episodes: int = 30
    per_episode: int = 4
    horizon: int = 1
    context: int = 1


class Scene(NamedTuple):
    """A moment, and what a reader of the report wants to see of it."""

    moment: Moment
    after: Float[Tensor, " s"]  # the state when the goal was seen, in the model's sense
    present: UInt8[Tensor, "3 h w"]
    goal: UInt8[Tensor, "3 h w"]


class Recorded(NamedTuple):
    """Scenes in the order of their episodes, and where they come from."""

    scenes: list[Scene]
    mean_action: Float[Tensor, " a"] | None  # of one step, in training data; None: all is asked
    about: dict[str, Any]  # JSON values: the data set, its parts and counts

    @property
    def moments(self) -> list[Moment]:
        """What functions of ``evals`` take."""
        return [scene.moment for scene in self.scenes]


def recorded(
    model: ActionWorldModel,
    source: SourceConfig,
    config: MomentsConfig,
    report: Report = lambda _: None,
) -> Recorded:
    """Read and encode moments, on the device and in the precision of the model.

    Raises:
        ConfigError: the data move slower than the model steps, were cropped otherwise, or have
            other axes; there is no such part; a count below 0, or a horizon or context below 1.
        DataError: no episode is as long as a moment.
    """
    if min(config.horizon, config.context) < 1 or min(config.episodes, config.per_episode) < 0:
        raise ConfigError(f"{config} cannot be; horizon and context are at least 1, counts 0")
    parts, asked, camera = _open(model, source, config, report)
    require_fit(model, asked, source.crop)
    window = ClipWindow(num_frames=config.context + config.horizon, step_seconds=model.step_seconds)
    rows = _rows(window, asked, config)
    scenes: list[Scene] = []
    for low in range(0, len(rows), TOGETHER):
        report(f"encoded {low} of {len(rows)} moments")
        scenes += _encoded(model, window, asked, camera, rows[low : low + TOGETHER], config)
    about = {
        "fingerprint": asked.fingerprint,
        "camera": camera,
        "crop": source.crop,
        "fps": asked.fps,
        "step_seconds": model.step_seconds,
        "part": config.part,
        "split_seed": source.split_seed,
        "context": config.context,
        "horizon": config.horizon,
        "episodes": len({scene.moment.episode for scene in scenes}),
        "moments": len(scenes),
    }
    mean = None if parts is None else mean_action(model, parts.train)
    return Recorded(scenes, mean, about)


def _open(
    model: ActionWorldModel, source: SourceConfig, config: MomentsConfig, report: Report
) -> tuple[Parts | None, Episodes, str]:
    """Return the data set, if it is split, the part that is asked for, and the camera."""
    size = model.encoder.preprocessing.image_size
    if config.part == "all":
        whole, camera = source.whole(size, report)
        return None, whole, camera
    parts = source.open(size, report)
    named = parts.named()
    if config.part not in named:
        raise ConfigError(f"there is no part {config.part!r}; the data have {sorted(named)}")
    return parts, named[config.part], parts.camera


def require_fit(model: ActionWorldModel, episodes: Episodes, crop: str) -> None:
    """Refuse data that a model cannot be asked about.

    Raises:
        ConfigError: frames too far apart for its steps, another crop, or axes of other names.
    """
    model.check_data(model.step_seconds, crop)
    if episodes.fps * model.step_seconds * (1 + RATE) < 1:
        raise ConfigError(
            f"frames of the data are {1 / episodes.fps:g} s apart, a step of the model lasts "
            f"{model.step_seconds:g} s; use data of at least {1 / model.step_seconds:g} frames "
            "per second"
        )
    _require_axes(model, episodes)


def _require_axes(model: ActionWorldModel, episodes: Episodes) -> None:
    """Refuse states of other axes than the model's.

    Raises:
        ConfigError: it names both.
    """
    if tuple(episodes.state_names) != model.state_names:
        raise ConfigError(
            f"states of the data are {list(episodes.state_names)}, the model's "
            f"{list(model.state_names)}; choose them by an option of the reader "
            "(saccade data formats)"
        )


def _rows(
    window: ClipWindow, episodes: Episodes, config: MomentsConfig
) -> Int64[np.ndarray, "n 2"]:
    """List (episode, first frame) of every moment, evenly spread."""
    starts: Starts = window.starts(episodes, window.gaps()[0])
    counts = starts.counts[:, 0]
    usable = np.flatnonzero(counts)
    if not len(usable):
        raise DataError(
            f"no episode is as long as a moment: {window.num_frames} frames "
            f"{window.step_seconds:g} s apart, without a hole; lower horizon or context"
        )
    rows = []
    for episode in usable[_spread(len(usable), config.episodes)].tolist():
        places = _spread(int(counts[episode]), config.per_episode)
        same = np.full_like(places, episode)
        frames = starts.frames(same, np.zeros_like(places), places)
        rows.append(np.stack([same, frames], 1))
    return np.concatenate(rows)


def _spread(there: int, wanted: int) -> Int64[np.ndarray, " n"]:
    """Choose evenly: the middles of ``wanted`` equal shares; all, where that is no fewer."""
    if not 0 < wanted < there:
        return np.arange(there)
    return ((np.arange(wanted) + 0.5) * there / wanted).astype(np.int64)


def _encoded(
    model: ActionWorldModel,
    window: ClipWindow,
    episodes: Episodes,
    camera: str,
    rows: Int64[np.ndarray, "n 2"],
    config: MomentsConfig,
) -> list[Scene]:
    read = []
    for episode, first in rows.tolist():
        frames, _ = window.resolve(episodes, episode, first, np.arange(window.num_frames))
        read.append((frames, episodes.read(episode, frames, (camera,))))
    device = next(model.predictor.parameters()).device
    video = torch.stack([found["video"][:, 0] for _, found in read])
    features = model.encode(video.to(device))
    scenes, now = [], config.context - 1
    for (episode, first), (frames, found), seen, pixels in zip(
        rows.tolist(), read, features, video, strict=True
    ):
        state = model.sense(found["state"], "state")
        action = model.measured(state[:-1], state[1:])
        last = _before(model, window, episodes, episode, first, state) if not now else None
        moment = Moment(
            episode,
            int(frames[now]),
            seen[: now + 1],
            state[: now + 1].to(device),
            action[:now].to(device),
            action[now - 1].to(device) if now else last,
            action[now:].to(device),
            seen[-1],
        )
        scenes.append(Scene(moment, state[-1].to(device), pixels[now], pixels[-1]))
    return scenes


def _before(
    model: ActionWorldModel,
    window: ClipWindow,
    episodes: Episodes,
    episode: int,
    first: int,
    state: Float[Tensor, "t s"],
) -> Float[Tensor, " a"] | None:
    """Measure what was done before the first frame; None where the episode begins or has a hole."""
    try:
        frames, beyond = window.resolve(episodes, episode, first, np.array([-1]))
    except DataError:
        return None
    if beyond[0] or frames[0] == first:
        return None
    earlier = model.sense(episodes.read(episode, frames, ())["state"], "state")[0]
    return model.measured(earlier, state[0]).to(next(model.predictor.parameters()).device)


def mean_action(model: ActionWorldModel, episodes: Episodes) -> Float[Tensor, " a"]:
    """Average the measured actions of one step of the model, over all frames.

    Raises:
        DataError: no episode is as long as one step.
    """
    window = ClipWindow(num_frames=2, step_seconds=model.step_seconds)
    starts = window.starts(episodes, window.gaps()[0])
    actions = []
    for episode in np.flatnonzero(starts.counts[:, 0]).tolist():
        places = np.arange(starts.counts[episode, 0])
        first = starts.frames(np.full_like(places, episode), np.zeros_like(places), places)
        pairs = np.stack(
            [window.resolve(episodes, episode, int(f), np.arange(2))[0] for f in first]
        )
        read = episodes.read(episode, pairs.ravel(), ())["state"]
        state = model.sense(read, "state").unflatten(0, (-1, 2))
        actions.append(model.measured(state[:, 0], state[:, 1]))
    if not actions:
        raise DataError(f"no episode is as long as one step of {model.step_seconds:g} s")
    return torch.cat(actions).mean(0).to(next(model.predictor.parameters()).device)


def load_world_model(
    folder: Path, device: str = "auto", precision: Literal["float32", "bfloat16"] = "float32"
) -> ActionWorldModel:
    """Load a world model for evaluation; bfloat16 halves its memory.

    Raises:
        CheckpointError: the folder holds no world model.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ActionWorldModel.from_pretrained(folder)
    return model.to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)


@contextmanager
def adapted(model: ActionWorldModel, folder: Path) -> Iterator[dict[str, Any]]:
    """Put adapters into the predictor for a while; yield what was recorded with them.

    Raises:
        CheckpointError: there are none in the folder, or they belong to another base.
    """
    found = [folder / name for name in ADAPTERS if (folder / name / lora.RECORD).is_file()]
    if not found:
        raise CheckpointError(
            f"{folder} holds no {lora.RECORD} beside adapters; give what saccade export lora "
            "wrote, or the folder of a run"
        )
    record = lora.load_lora(found[0], model.predictor)
    try:
        yield record
    finally:
        lora.remove_lora(model.predictor)
