from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.data.episodes import Subset
from saccade.data.perturbed import Perturbed
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError, DataError
from saccade.evals.clips import Clips, enumerate_clips, read_video
from saccade.evals.features import (
    EncoderReader,
    Reading,
    Request,
    as_cells,
    floors,
    in_time,
    readings,
)
from saccade.evals.probe import ALL, prepare
from saccade.evals.probes.base import Data, ProbeConfig
from tests.evals.known import deal
from tests.evals.oracle import Oracle, parts
from tests.evals.readable import VIEWS, WORLD, Patches, by_hand, reader, request

PAIRS = enumerate_clips(WORLD, (0, 4), 2)
FOUR = PAIRS.shown(0, 4, 1, 2)


def shown(clips: Clips) -> Tensor:
    return torch.cat(list(read_video(WORLD, clips, "front", 64)))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("frames", "known"),
    [(1, ("concatenation", "difference")), (2, ("pair",)), (16, ("repeated",))],
)
def test_how_an_encoder_can_be_read_depends_on_its_frames(
    frames: int, known: tuple[Reading, ...], tmp_path: Path
) -> None:
    assert readings(Patches(frames)) == known
    every: tuple[Reading, ...] = ("concatenation", "difference", "pair", "repeated")
    for other in every:
        if other in known:
            continue
        expected = f"takes {frames} frames; it can be read by {known[0]}"
        with pytest.raises(ConfigError, match=expected):
            reader(Patches(frames), other, tmp_path)


@pytest.mark.parametrize("clips", [PAIRS, PAIRS.shown(4, 0), PAIRS.shown(0, 0), FOUR])
def test_frames_are_put_side_by_side_in_the_order_shown(tmp_path: Path, clips: Clips) -> None:
    encoder = Patches()
    alone = [by_hand(encoder, frame) for frame in shown(clips).unbind(1)]
    found = reader(encoder, "concatenation", tmp_path)
    close(found.vectors("train", clips), torch.cat([a.mean((1, 2)) for a in alone], 1))
    close(found.cells("train", clips), torch.cat(alone, -1))
    other = reader(encoder, "difference", tmp_path)
    steps = [after - before for before, after in pairwise(alone)]
    close(other.vectors("train", clips), torch.cat([a.mean((1, 2)) for a in steps], 1))
    close(other.cells("train", clips), torch.cat(steps, -1))


@pytest.mark.parametrize("clips", [PAIRS, PAIRS.shown(4, 0), PAIRS.shown(0, 0), FOUR])
def test_successive_frames_are_encoded_as_pairs(tmp_path: Path, clips: Clips) -> None:
    encoder = Patches(2)
    found = reader(encoder, "pair", tmp_path)
    video = shown(clips)
    alone = [by_hand(encoder_of_one(encoder), frame) for frame in video.unbind(1)]
    both = [torch.cat(pair, -1) for pair in pairwise(alone)]
    close(found.vectors("train", clips), torch.cat([b.mean((1, 2)) for b in both], 1))
    close(found.cells("train", clips), torch.cat(both, -1))


def encoder_of_one(encoder: Patches) -> Patches:
    """Return the same network for single frames."""
    alone = Patches(1, encoder.side)
    alone.load_state_dict(encoder.state_dict())
    return alone


@pytest.mark.parametrize("tubelet", [1, 2, 8])
@pytest.mark.parametrize("clips", [PAIRS, PAIRS.shown(4, 0), FOUR])
def test_a_clip_is_filled_by_repetition_and_averaged_to_what_was_shown(
    tmp_path: Path, clips: Clips, tubelet: int
) -> None:
    encoder = Patches(16, tubelet=tubelet)
    found = reader(encoder, "repeated", tmp_path)
    frames = shown(clips)
    if 16 // tubelet < frames.shape[1]:  # fewer steps than frames: each step sees several
        frames = frames.float().unflatten(1, (-1, 2)).mean(2)
    alone = [by_hand(encoder_of_one(encoder), frame) for frame in frames.unbind(1)]
    close(found.vectors("train", clips), torch.cat([a.mean((1, 2)) for a in alone], 1))
    close(found.cells("train", clips), torch.cat(alone, -1))


def test_frames_that_cannot_fill_a_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 frames cannot be filled with 3"):
        reader(Patches(16), "repeated", tmp_path).vectors("train", PAIRS.shown(0, 1, 2))


def test_tokens_are_averaged_in_time_and_over_cells_by_hand() -> None:
    tokens = torch.arange(8.0)[None, :, None, None].expand(1, 8, 4, 1)
    assert in_time(tokens, 2)[0, :, 0, 0].tolist() == [1.5, 5.5]
    assert in_time(tokens[:, :2], 4).shape[1] == 2  # no more than there are
    square = torch.arange(16.0).view(1, 1, 16, 1)
    assert as_cells(square, 2)[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert as_cells(square, 8).shape == (1, 4, 4, 1)  # coarser encoders keep their grid
    with pytest.raises(ConfigError, match="5 tokens of a frame make no square"):
        as_cells(torch.zeros(1, 1, 5, 1), 2)


def test_a_cls_token_has_no_cell_and_tokens_in_no_square_still_make_vectors(
    tmp_path: Path,
) -> None:
    class Marked(Patches):
        def forward(self, video: Tensor) -> Tensor:
            tokens = super().forward(video)
            return torch.cat([tokens.mean(2, keepdim=True) + 7, tokens], 2)

    odd = reader(Marked(), "concatenation", tmp_path)
    assert odd.vectors("train", PAIRS).shape == (len(PAIRS.start), 10)
    with pytest.raises(ConfigError, match="17 tokens of a frame"):
        odd.cells("train", PAIRS)
    marked, plain = Marked(), Patches()
    marked.pooling = "cls"
    expected = reader(plain, "concatenation", tmp_path)
    found = reader(marked, "concatenation", tmp_path)
    close(found.cells("train", PAIRS), expected.cells("train", PAIRS))
    close(found.vectors("train", PAIRS), expected.vectors("train", PAIRS) + 7)


def test_ten_probes_cost_one_pass_and_a_second_run_none(tmp_path: Path) -> None:
    whole = SyntheticConfig(episodes=16, length=12, image_size=16, tasks=2).build()
    views: dict[str, Subset] = {**deal(whole)}
    views["test | noise 9"] = Perturbed(views["test"], "noise", 9.0)
    config = ProbeConfig(
        probes=ALL, gaps=(1, 4), headline=4, stride=2, readouts=("linear", "attentive")
    )
    prepared = prepare(Data(views, "front"), config)
    requests = [r for probe in prepared.values() for r in probe.requests()]
    encoder = Patches()
    one = EncoderReader(encoder, "concatenation", views, "front", tmp_path)
    missing, seconds, size = one.outlook(requests)
    assert encoder.calls == [1, 8, 1, 8]  # single frames, with cells and without, are timed once
    assert one.encoded == one.seconds == 0 < seconds
    assert missing == one.missing(requests) > 0
    encoder.calls.clear()
    one.prepare(requests)
    assert sum(encoder.calls) == one.encoded == missing
    assert size <= one.size_on_disk
    wanted = {
        (request.part.partition("|")[2], int(episode), int(start) + offset)
        for request in requests
        for episode, start in zip(
            np.asarray(views[request.part].keep)[request.clips.episode],
            request.clips.start,
            strict=True,
        )
        for offset in request.clips.offsets
    }
    assert sum(encoder.calls) == len(wanted)  # each frame once, whoever asks how often
    for probe in prepared.values():
        for _ in probe.answers(one, 0):
            pass
    other = EncoderReader(Patches(), "difference", views, "front", tmp_path)
    other.prepare(requests)
    for probe in prepared.values():
        for _ in probe.answers(other, 0):
            pass
    assert sum(encoder.calls) == len(wanted)  # answers read nothing that was not requested
    assert other.encoded == 0  # and another reading shares the pass
    assert other.outlook(requests) == (other.missing(requests), 0.0, 0) == (0, 0.0, 0)


def test_a_batch_is_as_large_as_it_may_be_and_spans_episodes(tmp_path: Path) -> None:
    encoder = Patches()
    reader(encoder, "concatenation", tmp_path, batch=16).prepare([request()])
    assert encoder.calls == [16, 16, 16, 16, 8]


def test_features_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    found = []
    for batch in (1, 7, 64):
        one = reader(Patches(), "concatenation", tmp_path / str(batch), batch=batch)
        found.append((one.vectors("train", PAIRS), one.cells("train", PAIRS)))
    for vectors, cells in found[1:]:  # matrix products of other sizes round otherwise
        torch.testing.assert_close(vectors, found[0][0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(cells, found[0][1], atol=1e-3, rtol=1e-3)


def test_whatever_features_depend_on_has_a_folder_of_its_own(tmp_path: Path) -> None:
    class Renamed(Patches):
        pass

    pooled, cut = Patches(), Patches()
    pooled.pooling = "cls"
    cut.preprocessing = replace(cut.preprocessing, pixels="another order")
    other = SyntheticConfig(episodes=6, length=12, image_size=16, seed=1).build()
    noisy = Perturbed(WORLD, "noise", 3.0)
    every = [
        reader(Patches(), "concatenation", tmp_path),
        reader(Patches(seed=1), "concatenation", tmp_path),
        reader(Renamed(), "concatenation", tmp_path),
        reader(pooled, "concatenation", tmp_path),
        reader(cut, "concatenation", tmp_path),
        reader(Patches(), "concatenation", tmp_path, grid=2),
        reader(Patches(), "concatenation", tmp_path, precision="bfloat16"),
        EncoderReader(Patches(), "concatenation", {"train": other}, "front", tmp_path),
        EncoderReader(Patches(), "concatenation", {"train": noisy}, "front", tmp_path),
    ]
    for one in every:
        before = len(list(tmp_path.iterdir()))
        one.prepare([request(cells=False)])
        assert len(list(tmp_path.iterdir())) == before + 1, one
    shared = Subset(WORLD, [4, 1])  # parts of a data set share its features
    one = EncoderReader(Patches(), "concatenation", {"train": shared}, "front", tmp_path)
    clips = enumerate_clips(shared, (0, 4), 2)
    found = one.vectors("train", clips)
    assert one.encoded == 0
    rows = torch.from_numpy(np.flatnonzero(PAIRS.episode == 4))
    first = torch.from_numpy(np.flatnonzero(clips.episode == 0))
    whole = reader(Patches(), "concatenation", tmp_path).vectors("train", PAIRS)
    assert torch.equal(found[first], whole[rows])


def test_half_precision_arithmetic_gives_nearly_the_same_features(tmp_path: Path) -> None:
    exact = reader(Patches(), "concatenation", tmp_path).vectors("train", PAIRS)
    rough = reader(Patches(), "concatenation", tmp_path, precision="bfloat16")
    found = rough.vectors("train", PAIRS)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.02


def test_the_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    encoder = Patches().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = reader(encoder, "concatenation", tmp_path)
    assert not found.vectors("train", PAIRS).requires_grad
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not encoder.training


def test_an_encoder_that_changes_itself_is_caught(tmp_path: Path) -> None:
    class Drifting(Patches):
        def forward(self, video: Tensor) -> Tensor:
            self.map.bias.data += 1
            return super().forward(video)

    with pytest.raises(RuntimeError, match="changed itself"):
        reader(Drifting(), "concatenation", tmp_path).prepare([request()])


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="camera 'front': Oracle takes frames of 64 x 64"):
        reader(Oracle(size=64), "pair", tmp_path).prepare([request(cells=False)])


def test_raw_floors_are_box_averages_and_their_change() -> None:
    known = floors(VIEWS, "front", grid=8)
    pixels, change = (known[n].cells("train", PAIRS) for n in ("raw pixels", "raw pixel change"))
    assert pixels is not None
    assert change is not None
    assert pixels.shape[:3] == change.shape[:3] == (len(PAIRS.start), 8, 8)
    vectors = known["raw pixels"].vectors("train", PAIRS)
    assert torch.equal(vectors, pixels.flatten(1))
    still = known["raw pixel change"].cells("train", PAIRS.shown(0, 0))
    assert still is not None
    assert still.abs().max() == 0


def test_floors_without_vision_know_the_state_or_the_task_only() -> None:
    split = parts()
    clips = enumerate_clips(split["unseen"], (0, 4), 4)
    known = floors(split, "front")
    assert list(known) == [
        "raw pixels", "raw pixel change", "gradients (HOG)", "flow histogram", "position only",
        "task only",
    ]  # fmt: skip
    state = split["unseen"].read(1, np.array([4]))["state"][0]
    found = known["position only"].vectors("unseen", clips)
    (place,) = np.flatnonzero((clips.episode == 1) & (clips.start == 4))
    assert torch.equal(found[place], state)
    later = known["position only"].vectors("unseen", clips.shown(4, 0))  # of what is shown first
    assert torch.equal(later[place], split["unseen"].read(1, np.array([8]))["state"][0])
    assert known["position only"].cells("unseen", clips) is None
    tasks = known["task only"].vectors("unseen", clips)
    assert tasks.shape == (len(clips.start), 2)
    assert tasks.abs().sum() == 0
    seen = known["task only"].vectors("test", enumerate_clips(split["test"], (0, 4), 4))
    assert seen.sum(1).eq(1).all()
    assert seen.sum(0).gt(0).all()


def test_a_request_reads_what_it_names(tmp_path: Path) -> None:
    found = reader(Patches(), "concatenation", tmp_path)
    found.prepare([Request("train", PAIRS)])
    before = found.encoded
    found.vectors("train", PAIRS.taken(np.array([3, 1])))
    assert found.encoded == before


def test_single_frames_are_encoded_once_however_many_clips_show_them(tmp_path: Path) -> None:
    requests = [Request("train", PAIRS.shown(*order)) for order in ((0, 4), (4, 0), (0, 0), (0, 2))]
    requests.append(Request("train", enumerate_clips(WORLD, (0, 1, 2, 3), 2), cells=True))
    encoder = Patches()
    one = reader(encoder, "concatenation", tmp_path)
    assert one.missing(requests) == sum(WORLD.lengths)  # of far more that are shown
    one.prepare(requests)
    assert sum(encoder.calls) == sum(WORLD.lengths)
    assert one.missing(requests) == 0
    two = reader(Patches(2), "pair", tmp_path)
    steps = {
        (e, s + first, last - first)
        for r in requests
        for e, s in zip(r.clips.episode, r.clips.start, strict=True)
        for first, last in pairwise(r.clips.offsets)
    }
    assert two.missing(requests) == len(steps)
