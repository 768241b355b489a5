import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from saccade.data.episodes import Episodes
from saccade.data.perturbed import Kind, Perturbed
from saccade.data.truth import SceneTruth
from saccade.errors import DataError
from saccade.evals.clips import Clips
from saccade.evals.probe import prepare
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.evals.probes.flow import ESTIMATED, EXACT, FlowProbe, as_targets, from_targets
from tests.evals.known import Given, World, asked, covers, deal, pick

SIDE, FRAMES, DEPTH = 64, 7, 2.0
CONFIG = ProbeConfig(probes=("flow",), gaps=(3,), headline=3, stride=1, resamples=100)


def shifts(count: int = 16) -> np.ndarray:
    """Choose how many pixels right and down the pictures of each episode move in a frame."""
    return np.random.default_rng(0).integers(-1, 2, (count, 2))


def texture(shift: np.ndarray, seed: int) -> torch.Tensor:
    """Film a smooth random texture that moves as one."""
    margin = 2 * FRAMES
    rng = np.random.default_rng(seed)
    rough = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 12)))
    wide = F.interpolate(rough, (SIDE + 2 * margin,) * 2, mode="bicubic").clamp(0, 255)[0]
    films = []
    for t in range(FRAMES):
        left, top = margin - t * shift[0], margin - t * shift[1]
        films.append(wide[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(films).round().byte()


def filmed() -> World:
    moves = shifts()
    videos = [texture(shift, i) for i, shift in enumerate(moves)]
    states = [np.outer(np.arange(FRAMES), [*shift, 0.0]) for shift in moves]
    return World(states, videos=videos)


def simulated() -> World:
    """Let a camera glide along a wall: every pixel moves by -f v / depth."""
    intrinsics = np.array([[40.0, 0, 31.5], [0, 40.0, 31.5], [0, 0, 1]])
    truths: list[SceneTruth | None] = []
    states = []
    for i, (right, down) in enumerate(shifts()):
        camera = np.tile(np.eye(4), (FRAMES, 1, 1))
        place = np.outer(np.arange(FRAMES), [right, down]) * -0.01 * (1 + i / 10)
        camera[:, :2, 3] = place
        truths.append(
            SceneTruth(
                depth=np.full((FRAMES, SIDE, SIDE), DEPTH, np.float32),
                body=np.zeros((FRAMES, SIDE, SIDE), np.uint16),
                poses=np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1, 1)),
                camera=camera,
                intrinsics=intrinsics,
            )
        )
        states.append(np.c_[place, np.zeros(FRAMES)])
    return World(states, truths=truths)


FILM, WALL = deal(filmed()), deal(simulated())


def carrying(probe: FlowProbe, side: int) -> Given:
    """Show each token the mean flow of what it sees, beside numbers that do not matter."""
    (parts,) = probe.asked.values()

    def cells(episodes: Episodes, clips: Clips) -> torch.Tensor:
        name = next(p for p, e in probe.data.parts.items() if e is episodes)
        flow = torch.from_numpy(np.nan_to_num(parts[name].flow)).permute(0, 3, 1, 2)
        seen = F.interpolate(flow, (side, side), mode="nearest")
        junk = torch.from_numpy(np.random.default_rng(len(clips.start)).normal(size=seen.shape))
        return torch.cat([seen, junk], 1).permute(0, 2, 3, 1)

    return Given(probe.data.parts, lambda *_: pytest.fail("no vectors"), cells)


def test_flow_that_cells_carry_is_read_whole() -> None:
    prepared = prepare(Data(WALL, "front"), CONFIG)
    probe = prepared["flow"]
    assert isinstance(probe, FlowProbe)
    assert probe.target == EXACT
    for side in (1, 4, 7, 8, 16):  # the whole picture moves as one: any grid can carry that
        _, rows = asked(carrying(probe, side), prepared, CONFIG)
        for group in ("all cells", "moving cells"):
            assert pick(rows, metric="epe", group=group)["value"] < 1e-3, side
            assert pick(rows, metric="r2", group=group)["value"] > 0.999


def test_the_simulator_s_flow_is_the_camera_s_motion_by_hand() -> None:
    probe = FlowProbe(Data(WALL, "front"), CONFIG)
    flowing = probe.asked[3]["test"]
    for i in (0, len(flowing.clips.start) - 1):
        episode = flowing.clips.episode[i]
        moved = np.diff(WALL["test"].numbers(int(episode), np.array([0, 3]))[0], axis=0)[0, :2]
        expected = -40 * moved / DEPTH / SIDE * 100  # percent of the side
        seen = flowing.flow[i][np.isfinite(flowing.flow[i]).all(-1)]
        assert len(seen) >= 8 * 8 / 2  # what leaves the picture is not scored
        np.testing.assert_allclose(seen, np.tile(expected, (len(seen), 1)), atol=1e-3)


def test_estimated_flow_is_the_shift_of_the_texture() -> None:
    probe = FlowProbe(Data(FILM, "front"), CONFIG)
    assert probe.target == ESTIMATED
    flowing = probe.asked[3]["test"]
    for i, episode in enumerate(flowing.clips.episode):
        velocity = np.diff(FILM["test"].numbers(int(episode), np.array([0, 1]))[0], axis=0)[0, :2]
        inner = flowing.flow[i, 2:-2, 2:-2].reshape(-1, 2) * SIDE / 100  # pixels
        np.testing.assert_allclose(np.median(inner, 0), 3 * velocity, atol=0.3)


def test_no_motion_errs_by_the_mean_length_of_the_flow_exactly() -> None:
    prepared = prepare(Data(WALL, "front"), CONFIG)
    probe = prepared["flow"]
    assert isinstance(probe, FlowProbe)
    _, rows = asked(None, prepared, CONFIG, kind="floor")
    flow = probe.asked[3]["test"].flow.reshape(-1, 2)
    length = np.linalg.norm(flow[np.isfinite(flow).all(1)], axis=1)
    assert pick(rows, metric="epe", group="all cells")["value"] == pytest.approx(length.mean())
    moving = length[length > 0.5]
    assert pick(rows, metric="epe", group="moving cells")["value"] == pytest.approx(moving.mean())


def test_noise_reads_no_flow() -> None:
    def noisy(episodes: Episodes, clips: Clips) -> torch.Tensor:
        rng = np.random.default_rng([len(clips.start), *clips.episode.tolist()])
        return torch.from_numpy(rng.normal(size=(len(clips.start), 8, 8, 4)))

    prepared = prepare(Data(WALL, "front"), CONFIG)
    reader = Given(WALL, lambda *_: pytest.fail("no vectors"), noisy)
    found = pick(asked(reader, prepared, CONFIG)[1], metric="r2", group="all cells")
    assert found["value"] < 0.02
    assert covers(found, 0, slack=0.05) or found["high"] < 0


def test_perturbed_pictures_keep_the_flow_of_clean_ones_and_shifted_ones_are_not_asked() -> None:
    parts = {**FILM}
    suite: list[tuple[Kind, float]] = [("noise", 60.0), ("camera shift", 0.1)]
    for kind, strength in suite:
        worse = Perturbed(FILM["test"], kind, strength)
        parts[f"test | {worse.name}"] = worse
    probe = FlowProbe(Data(parts, "front"), CONFIG)
    assert set(probe.asked[3]) == {*FILM, "test | noise 60"}
    clean, noisy = (probe.asked[3][part] for part in ("test", "test | noise 60"))
    np.testing.assert_array_equal(clean.flow, noisy.flow)


def test_finer_targets_are_gathered_and_scattered_back() -> None:
    flow = np.random.default_rng(0).normal(size=(2, 8, 8, 2))
    targets = as_targets(flow, 4)
    assert targets.shape == (2, 4, 4, 8)
    expected = rearrange(flow[1, 2:4, 6:8], "p q c -> (p q c)")
    np.testing.assert_array_equal(targets[1, 1, 3], expected)
    np.testing.assert_array_equal(from_targets(targets, 8), flow)


def test_pictured_clips_are_lively_and_drawn_once() -> None:
    prepared = prepare(Data(WALL, "front"), CONFIG)
    probe = prepared["flow"]
    assert isinstance(probe, FlowProbe)
    drawn = [a.drawn for a in probe.answers(carrying(probe, 8), 0) if a.drawn is not None]
    (only,) = drawn
    assert only.shape == (len(probe.pictured), 8, 8, 2)
    length = np.linalg.norm(np.nan_to_num(probe.asked[3]["test"].flow), axis=-1).mean((1, 2))
    assert length[probe.pictured].max() == length.max()


def test_a_simulator_that_tells_of_some_episodes_only_is_refused() -> None:
    world = simulated()
    assert world.truths is not None
    world.truths[7] = None
    with pytest.raises(DataError, match="15 of 16 episodes have the simulator's"):
        FlowProbe(Data(deal(world), "front"), CONFIG)
