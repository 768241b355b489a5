import numpy as np
import pytest
import torch

from saccade.data.episodes import Episodes, Subset
from saccade.data.perturbed import Perturbed
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError
from saccade.evals.clips import Clips
from saccade.evals.probe import prepare
from saccade.evals.probes.action import ActionProbe
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.evals.ridge import Ridge
from saccade.evals.targets import Labels
from tests.evals.known import Given, World, asked, covers, deal, displacement, noise, pick, state_at

WORLD = SyntheticConfig(episodes=96, length=16, tasks=2, image_size=16).build()
PARTS = deal(WORLD)
FAST = ProbeConfig(gaps=(4,), stride=1, resamples=300)
LINEAR = {"readout": "linear", "metric": "r2", "frame": "camera"}


def known(episodes: Episodes, clips: Clips) -> torch.Tensor:
    """Carry the displacement in every cell."""
    return displacement(episodes, clips)[:, None, None].expand(-1, 2, 2, -1)


def test_features_that_contain_the_target_are_read_whole_by_every_readout() -> None:
    config = ProbeConfig(gaps=(4,), stride=2, resamples=50, readouts=("linear", "mlp", "attentive"))
    prepared = prepare(Data(PARTS, "front"), config)
    _, rows = asked(Given(PARTS, displacement, known), prepared, config)
    for group in ("position", "gripper"):
        for frame in ("camera", "world"):
            found = pick(rows, readout="linear", metric="r2", frame=frame, group=group)
            assert found["value"] >= 0.999
            assert found["low"] >= 0.999
        for readout in ("mlp", "attentive"):
            found = pick(rows, readout=readout, metric="r2", frame="camera", group=group)
            assert found["value"] > 0.95
    assert pick(rows, **LINEAR | {"metric": "cosine"}, group="position")["value"] > 0.999
    assert pick(rows, **LINEAR | {"metric": "within"}, group="position")["value"] == 1


def test_noise_tells_nothing() -> None:
    _, rows = asked(Given(PARTS, noise), prepare(Data(PARTS, "front"), FAST), FAST)
    for group in ("position", "gripper"):
        found = pick(rows, **LINEAR, group=group)
        assert found["value"] < 0.02
        assert covers(found, 0, slack=0.05)
        assert found["penalty"] > 0.1  # chosen on select: train would take the smallest


def test_labels_of_other_episodes_cannot_be_read() -> None:
    class Exchanged(Subset):
        """States of one episode beside the features of another."""

        def numbers(self, episode: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return super().numbers((episode + 1) % len(self.keep), frames)

    wrong = {name: Exchanged(WORLD, part.keep) for name, part in PARTS.items()}
    prepared = {"action": ActionProbe(Data(wrong, "front"), FAST)}
    _, rows = asked(Given(PARTS, displacement), prepared, FAST)
    for group in ("position", "gripper"):
        found = pick(rows, **LINEAR, group=group)
        assert found["value"] < 0.02
        assert covers(found, 0, slack=0.05)


def test_no_motion_scores_what_it_costs() -> None:
    prepared = prepare(Data(PARTS, "front"), FAST)
    _, rows = asked(None, prepared, FAST, kind="floor")
    action = prepared["action"]
    assert isinstance(action, ActionProbe)
    clips = action.labelled[4]["test"].clips
    moved = (state_at(PARTS["test"], clips, 4) - state_at(PARTS["test"], clips, 0))[:, :3].numpy()
    expected = 1 - (moved**2).sum() / ((moved - moved.mean(0)) ** 2).sum()
    found = pick(rows, **LINEAR, group="position")
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    assert (found["penalty"], found["dims"]) == (None, 0)
    assert pick(rows, **LINEAR | {"metric": "cosine"}, group="position")["value"] == 0
    commands = ProbeConfig(gaps=(4,), labels=Labels(motion="action"))
    prepared = prepare(Data(PARTS, "front"), commands)
    assert asked(None, prepared, commands)[1] == []  # commands of zero are no prediction of rest


def test_perturbed_parts_are_scored_through_the_readout_of_clean_ones() -> None:
    parts = {**PARTS, "test | noise 16": Perturbed(PARTS["test"], "noise", 16.0)}
    doubled = {name: 2.0 if "|" in name else 1.0 for name in parts}

    class Doubling(Given):
        def vectors(self, part: str, clips: Clips) -> torch.Tensor:
            return doubled[part] * super().vectors(part, clips)[:, :4]

    prepared = prepare(Data(parts, "front"), FAST)
    action = prepared["action"]
    assert isinstance(action, ActionProbe)
    labelled = action.labelled[4]
    clean, noisy = (labelled[part].targets for part in ("test", "test | noise 16"))
    for one, other in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    _, rows = asked(Doubling(parts, displacement), prepared, FAST)
    moved = next(t.values for t in clean if (t.group, t.frame) == ("position", "camera"))
    expected = 1 - (moved**2).sum() / ((moved - moved.mean(0)) ** 2).sum()  # off by itself
    assert pick(rows, **LINEAR, group="position")["value"] > 0.999
    found = pick(rows, **LINEAR, group="position", condition="noise 16")
    assert found["value"] == pytest.approx(expected, abs=0.02)


def test_perturbed_parts_are_asked_about_at_the_headline_gap_only() -> None:
    parts = {**PARTS, "test | noise 16": Perturbed(PARTS["test"], "noise", 16.0)}
    config = ProbeConfig(
        gaps=(1, 4), headline=4, stride=12, resamples=20, readouts=("mlp", "linear")
    )
    probe = ActionProbe(Data(parts, "front"), config)
    for reader in (Given(parts, displacement), None):
        rows = asked(reader, {"action": probe}, config)[1]
        assert {row["gap"] for row in rows if row["condition"] == "noise 16"} == {4}
        assert {row["gap"] for row in rows if row["condition"] == ""} == {1, 4}
    requests = list(probe.requests())
    assert [r.clips.offsets for r in requests if "|" in r.part] == [(0, 4)]
    assert [r.clips.offsets for r in requests if r.part == "test"] == [(0, 1), (0, 4)]


def test_curves_are_nested_and_end_at_the_action_row() -> None:
    config = ProbeConfig(
        probes=("curves",), gaps=(4,), stride=1, resamples=50, shares=(0.1, 0.3, 1.0)
    )
    prepared = prepare(Data(PARTS, "front"), config)
    action = prepared["action"]
    assert isinstance(action, ActionProbe)
    clips = action.labelled[4]["train"].clips
    few, more, every = (action._labelled_share(4, share, 7) for share in (0.1, 0.3, 1.0))
    held = [set(clips.episode[some].tolist()) for some in (few, more, every)]
    assert held[0] < held[1] < held[2]
    assert [len(some) for some in held] == [5, 14, 48]
    assert set(clips.episode[action._labelled_share(4, 0.3, 8)].tolist()) != held[1]  # by seed

    def blurred(episodes: Episodes, clips: Clips) -> torch.Tensor:
        seen, junk = displacement(episodes, clips)[:, :4], noise(episodes, clips, 24)
        return torch.cat([seen + 0.1 * junk[:, :4], junk[:, 4:]], 1)

    reader = Given(PARTS, blurred)
    _, rows = asked(reader, prepared, config)
    assert {row["labels"] for row in rows} == {0.1, 0.3, 1.0}
    plain = prepare(Data(PARTS, "front"), FAST)
    whole = pick(asked(reader, plain, FAST)[1], **LINEAR, group="position")
    assert pick(rows, **LINEAR, group="position")["value"] == whole["value"]  # to the last bit
    chosen = torch.from_numpy(action._labelled_share(4, 0.3, 0))
    x = {part: blurred(PARTS[part], action.labelled[4][part].clips) for part in PARTS}
    y = {part: action.labelled[4][part].targets[0].values for part in PARTS}
    fit = Ridge(x["train"][chosen]).fit(y["train"][chosen.numpy()], x["select"], y["select"])
    error = ((fit.predict(x["test"]) - y["test"]) ** 2).sum()
    expected = 1 - error / ((y["test"] - y["test"].mean(0)) ** 2).sum()
    found = pick(rows, **LINEAR, group="position", labels=0.3)
    assert found["value"] == pytest.approx(expected)


FACTORS = ProbeConfig(probes=("factors",), gaps=(1,), headline=1, stride=1, resamples=300)


def moving(drift: np.ndarray | float, seed: int = 0) -> World:
    """Make arms that go ``drift`` times their position, and somewhere that nothing tells."""
    rng, states = np.random.default_rng(seed), []
    for _ in range(48):
        state = [rng.normal(0, 0.3, 3)]
        for _ in range(9):
            state.append(state[-1] + drift * state[-1] + rng.normal(0, 0.05, 3))
        states.append(np.array(state))
    return World(states)


def factor(parts: dict[str, Subset], reader: Given, condition: str) -> dict:
    _, rows = asked(reader, prepare(Data(parts, "front"), FACTORS), FACTORS)
    wanted = {"frame": "world", "readout": "linear", "metric": "r2", "group": "position"}
    return pick(rows, **wanted, condition=condition)


def test_nothing_is_left_beyond_position_where_position_tells_all_that_can_be_told() -> None:
    parts = deal(moving(-0.5))

    def place(episodes: Episodes, clips: Clips) -> torch.Tensor:
        return torch.cat([state_at(episodes, clips, 0), noise(episodes, clips, 4)], 1)

    at = Given(parts, place)
    assert factor(parts, at, "")["value"] > 0.3
    found = factor(parts, at, "beyond position")
    assert found["value"] < 0.02
    assert covers(found, 0, slack=0.02)

    def both(episodes: Episodes, clips: Clips) -> torch.Tensor:
        return torch.cat([state_at(episodes, clips, 0), displacement(episodes, clips)], 1)

    seeing = Given(parts, both)
    assert factor(parts, seeing, "beyond position")["value"] > 0.97
    assert factor(parts, seeing, "beyond appearance")["value"] > 0.97


def test_nothing_is_left_beyond_appearance_where_the_first_frame_tells_all() -> None:
    parts = deal(moving(-0.5))

    def look(episodes: Episodes, clips: Clips) -> torch.Tensor:
        """See where the arm is at the first frame, in colours that states do not name."""
        mixed = state_at(episodes, clips, clips.offsets[0]) @ torch.tensor(
            [[1.0, 2, 0], [0, 1, 3], [1, 0, 1]], dtype=torch.float64
        )
        return torch.cat([mixed, noise(episodes, clips, 4)], 1)

    looking = Given(parts, look)
    assert factor(parts, looking, "")["value"] > 0.3
    assert factor(parts, looking, "no motion shown")["value"] > 0.3  # it never needed any
    found = factor(parts, looking, "beyond appearance")
    assert found["value"] < 0.02
    assert covers(found, 0, slack=0.02)


def test_nothing_is_read_without_motion_where_only_motion_tells() -> None:
    parts = deal(moving(0.0))
    seeing = Given(parts, displacement)
    assert factor(parts, seeing, "")["value"] > 0.97
    found = factor(parts, seeing, "no motion shown")
    assert found["value"] < 0.02
    assert covers(found, 0, slack=0.02)


def test_data_without_states_are_refused() -> None:
    still = World([np.zeros((8, 0))] * 4)
    with pytest.raises(DataError, match="has no states"):
        prepare(Data(deal(still), "front"), FAST)
