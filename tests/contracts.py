"""What every reader, encoder and objective must hold. New code is tested by one call."""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Collection, Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from saccade.data.episodes import Episodes, Frames
from saccade.data.video.images import decode_image
from saccade.errors import DataError
from saccade.types import Clip, Encoder, Objective


def check_reader(episodes: Episodes) -> None:
    """Frames are typed, exact in any order, the same in every process, and never invented."""
    check_description(episodes)
    for episode in sorted({0, len(episodes.lengths) // 2, len(episodes.lengths) - 1}):
        check_episode(episodes, episode)
    empty = [i for i, length in enumerate(episodes.lengths) if not length]
    for episode in empty:
        nothing = episodes.read(episode, np.arange(0), ())
        assert nothing["state"].shape == (0, len(episodes.state_names))
        with pytest.raises(DataError):
            episodes.read(episode, np.array([0]), ())
    for episode in (-1, len(episodes.lengths)):
        with pytest.raises(DataError):
            episodes.read(episode, np.array([0]))
    with pytest.raises(DataError):
        episodes.read(0, np.array([], np.int64), ("no such camera",))
    check_other_processes(episodes)


def check_episode(episodes: Episodes, episode: int) -> None:
    """One at a time, out of order, from a copy, by camera and blind: all the same."""
    length, cameras = episodes.lengths[episode], episodes.cameras_of(episode)
    assert set(cameras) <= set(episodes.cameras)
    if not length:
        return
    whole = episodes.read(episode, np.arange(length))
    check_frames(episodes, whole, length, len(cameras))
    single = [episodes.read(episode, np.array([t])) for t in range(length)]
    for name in ("video", "state", "action"):
        together = torch.cat([frames[name] for frames in single])
        assert torch.equal(together, whole[name]), f"{name} of single frames differs from all"

    order = np.array([length - 1, 0, length // 2, 0])
    assert_same(episodes.read(episode, order), whole, order)
    assert_same(pickle.loads(pickle.dumps(episodes)).read(episode, order), whole, order)
    for view, camera in enumerate(cameras):
        seen = episodes.read(episode, order, (camera,))["video"][:, 0]
        assert torch.equal(seen, whole["video"][order, view])
        check_encoded(episodes, episode, camera, order)

    blind = episodes.read(episode, order, ())
    assert blind["video"].shape[:2] == (len(order), 0), "cameras=() must decode no pixels"
    assert torch.equal(blind["state"], whole["state"][order])
    nothing = episodes.read(episode, np.arange(0))
    assert nothing["video"].shape[:2] == (0, len(cameras))
    for outside in (-1, length):
        with pytest.raises(DataError):
            episodes.read(episode, np.array([0, outside]))


def check_encoded(episodes: Episodes, episode: int, camera: str, order: np.ndarray) -> None:
    """Stored pictures, where there are any, decode to what is read; poses are rigid."""
    stored = episodes.encoded(episode, camera, order)
    if stored is not None:
        assert len(stored) == len(order)
        pictures = torch.stack([decode_image(data, "a stored picture") for data in stored])
        assert torch.equal(pictures, episodes.pixels(episode, camera, order))
    poses, matrix = episodes.camera_poses(episode, camera), episodes.intrinsics(episode, camera)
    assert poses is None or poses.shape == (episodes.lengths[episode], 4, 4)
    assert matrix is None or matrix.shape == (3, 3)


def check_other_processes(episodes: Episodes) -> None:
    """Workers that were forked after files were opened, or started afresh, read the same."""
    usable = [i for i, length in enumerate(episodes.lengths) if length]
    here = [digest(episodes, i) for i in usable[:4]]
    for method in ("fork", "forkserver"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads: we fork anyway
            with get_context(method).Pool(2) as pool:
                # a forkserver keeps the environment in which it was started
                work = [(episodes, i, dict(os.environ)) for i in usable[:4]]
                there = pool.starmap(digest, work)
        assert there == here, f"a {method}ed worker reads other frames"


def digest(
    episodes: Episodes, episode: int, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Digest the first, the middle and the last frame."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    last = episodes.lengths[episode] - 1
    frames = episodes.read(episode, np.array([0, last // 2, last]))
    arrays = (frames[name].contiguous().numpy() for name in ("video", "state", "action"))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def check_description(episodes: Episodes) -> None:
    assert episodes.lengths, "a reader of nothing must be an error"
    assert min(episodes.lengths) >= 0
    assert len(episodes.tasks) == len(episodes.lengths)
    assert all(isinstance(task, str) for task in episodes.tasks)
    assert isinstance(episodes.fingerprint, str)
    assert episodes.fingerprint
    assert len(set(episodes.cameras)) == len(episodes.cameras)
    for episode, length in enumerate(episodes.lengths):
        assert json.dumps(episodes.about(episode), allow_nan=False)
        times = episodes.timestamps(episode)
        assert times.shape == (length,)
        assert (np.diff(times) > 0).all(), f"time runs backwards in episode {episode}"
    assert set(episodes.world_to_camera) <= set(episodes.cameras)
    for camera, rotation in episodes.world_to_camera.items():
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6, err_msg=camera)
        assert np.linalg.det(rotation) > 0, f"{camera} is a mirror, not a rotation"


def check_frames(episodes: Episodes, frames: Frames, length: int, views: int) -> None:
    video, state, action = frames["video"], frames["state"], frames["action"]
    assert video.shape[:3] == (length, views, 3)
    assert video.dtype == torch.uint8
    assert state.shape == (length, len(episodes.state_names))
    assert action.shape == (length, len(episodes.action_names))
    assert state.dtype == action.dtype == torch.float32
    assert bool(state.isfinite().all() and action.isfinite().all())


def assert_same(part: Frames, whole: Frames, rows: np.ndarray) -> None:
    assert torch.equal(part["video"], whole["video"][rows]), f"frames {rows} are others alone"
    assert torch.equal(part["state"], whole["state"][rows])
    assert torch.equal(part["action"], whole["action"][rows])


@torch.no_grad()
def check_encoder(encoder: Encoder, video: Tensor) -> None:
    """A clip's tokens are finite, its own, reproducible, and say something about the pixels."""
    expected = encoder.preprocessing
    assert video.shape[1:] == (expected.num_frames, 3, expected.image_size, expected.image_size)
    training, before = encoder.training, video.clone()
    encoder.eval()
    tokens = encoder(video)
    assert torch.equal(video, before), "the encoder changed its input"
    assert tokens.ndim == 4
    assert len(tokens) == len(video)
    assert tokens.shape[-1] == encoder.embed_dim
    assert bool(tokens.isfinite().all())
    assert encoder.pool(tokens).shape == (len(video), tokens.shape[1] * encoder.embed_dim)
    assert torch.equal(encoder(video), tokens), "evaluation is not reproducible"
    torch.testing.assert_close(encoder(video[:1]), tokens[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder(255 - video), tokens, atol=1e-3), "pixels do not matter"
    encoder.train(training)


def check_objective(
    objective: Objective, clip: Clip, steps: int = 30, leaks: Collection[str] = ()
) -> None:
    """It is a function of the clip, leaks nothing unsaid, learns everywhere, and exports.

    ``leaks`` are the inputs by which a negative control sees its target without owning up.
    """
    check_function_of_the_clip(objective, clip)
    check_target(objective, clip, set(leaks))
    check_learning(objective, clip, steps)
    for name, picture in objective.pictures(clip).items():
        assert picture.ndim == 4, name
        assert 0 <= picture.min() <= picture.max() <= 1, name
    check_exports(objective)


def check_function_of_the_clip(objective: Objective, clip: Clip) -> None:
    before = {name: value.clone() for name, value in clip.items() if isinstance(value, Tensor)}
    torch.manual_seed(1)
    loss, scalars = objective(clip)
    torch.manual_seed(2)
    again, _ = objective(clip)
    assert torch.equal(loss, again), "the loss must depend on clip['key'], not on a global seed"
    torch.testing.assert_close(loss, sum(objective.terms(clip).values()))
    assert loss.isfinite()
    assert not any(value.requires_grad for value in scalars.values())
    changed = [name for name, value in before.items() if not torch.equal(value, clip[name])]
    assert not changed, f"the objective changed {changed} of its clip"


def check_target(objective: Objective, clip: Clip, expected: set[str]) -> None:
    """Hiding the target moves the loss, and only those inputs that own up to seeing it."""
    hidden = objective.without_target(clip)
    replaced = [not torch.equal(hidden[n], clip[n]) for n in ("video", "action")]
    assert any(replaced), "no target was replaced"
    assert objective(hidden)[0] != objective(clip)[0], "the target does not reach the loss"
    inputs, blind = objective.inputs(clip), objective.inputs(hidden)
    moved = {name for name, value in inputs.items() if not torch.equal(value, blind[name])}
    leaks = moved - objective.sees_target
    assert leaks == expected, f"the target leaks into {leaks}, expected {expected}"
    baselines = objective.baselines(clip)
    assert baselines, "a loss needs a trivial prediction to be compared with"
    assert all(value.isfinite() and value > 0 for value in baselines.values())


def check_learning(objective: Objective, clip: Clip, steps: int) -> None:
    """Every weight moves, in what is exported too, and one batch can be overfitted."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    start = weights(objective)
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    losses = []
    for step in range(1, steps + 1):
        loss, _ = objective(clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
        losses.append(loss.item())
        if step >= 5 and max(losses[-3:]) < 0.8 * losses[0]:
            break  # learnt, and not by a chance of one step
    idle = [name for name, value in weights(objective).items() if torch.equal(value, start[name])]
    assert not idle, f"no gradient reaches {idle}"
    assert losses[-1] < 0.8 * losses[0], f"one batch cannot be overfitted: {losses}"


def weights(objective: Objective) -> dict[str, Tensor]:
    """Copy each trained parameter, and all of each export as one vector (it may be an average)."""
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    exported = {
        f"export {name}": parameters_to_vector(encoder.parameters())
        for name, (encoder, _) in objective.exports().items()
    }
    return {name: value.detach().clone() for name, value in (named | exported).items()}


def check_exports(objective: Objective) -> None:
    """What outlives training comes back from its folder as the same encoder."""
    for name, (encoder, config) in objective.exports().items():
        with TemporaryDirectory() as folder:
            encoder.save_pretrained(Path(folder), config)
            loaded = Encoder.from_pretrained(Path(folder)).state_dict()
        for key, value in encoder.state_dict().items():
            assert torch.equal(loaded[key], value), f"{key} of export {name} came back another"
