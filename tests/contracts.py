"""What every reader, encoder and objective must hold. New code is tested by one call."""

import pickle
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from saccade.data.episodes import Episodes, Frames
from saccade.errors import DataError
from saccade.types import Clip, Encoder, Objective


def check_reader(episodes: Episodes) -> None:
    """Frames are typed, exact in any order, the same in every process, and never invented."""
    check_description(episodes)
    length = episodes.lengths[0]
    whole = episodes.read(0, np.arange(length))
    check_frames(episodes, whole, length)

    order = np.array([length - 1, 0, length // 2, 0])
    assert_same(episodes.read(0, order), whole, order)
    assert_same(pickle.loads(pickle.dumps(episodes)).read(0, order), whole, order)
    for view, camera in enumerate(episodes.cameras):
        assert torch.equal(
            episodes.read(0, order, (camera,))["video"][:, 0], whole["video"][order, view]
        )

    blind = episodes.read(0, order, ())
    assert blind["video"].shape[:2] == (len(order), 0), "cameras=() must decode no pixels"
    assert torch.equal(blind["state"], whole["state"][order])
    for outside in (-1, length):
        with pytest.raises(DataError):
            episodes.read(0, np.array([0, outside]))


def check_description(episodes: Episodes) -> None:
    assert episodes.lengths, "a reader of nothing must be an error"
    assert min(episodes.lengths) > 0
    assert len(episodes.tasks) == len(episodes.lengths)
    assert all(isinstance(task, str) for task in episodes.tasks)
    assert isinstance(episodes.fingerprint, str)
    assert episodes.fingerprint
    assert len(set(episodes.cameras)) == len(episodes.cameras)
    for episode, length in enumerate(episodes.lengths):
        times = episodes.timestamps(episode)
        assert times.shape == (length,)
        assert (np.diff(times) > 0).all(), f"time runs backwards in episode {episode}"
    assert set(episodes.world_to_camera) <= set(episodes.cameras)
    for camera, rotation in episodes.world_to_camera.items():
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6, err_msg=camera)
        assert np.linalg.det(rotation) > 0, f"{camera} is a mirror, not a rotation"


def check_frames(episodes: Episodes, frames: Frames, length: int) -> None:
    video, state, action = frames["video"], frames["state"], frames["action"]
    assert video.shape[:3] == (length, len(episodes.cameras), 3)
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
    assert not torch.equal(hidden["video"], clip["video"]), "no target pixel was replaced"
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
