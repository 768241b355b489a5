import numpy as np
import pytest
import torch

from saccade.data.episodes import Episodes
from saccade.data.perturbed import Perturbed
from saccade.data.synthetic import SyntheticConfig
from saccade.evals.clips import Clips
from saccade.evals.probe import prepare
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.evals.probes.order import FOUR, STATIC, OrderProbe
from tests.evals.known import Given, asked, covers, deal, noise, pick

PARTS = deal(SyntheticConfig(episodes=48, length=16, image_size=16).build())
CONFIG = ProbeConfig(probes=("order",), gaps=(6,), headline=6, stride=2, resamples=300)


def clock(episodes: Episodes, clips: Clips) -> torch.Tensor:
    """Tell when each frame shown was recorded."""
    shown = clips.start[:, None] + np.array(clips.offsets)
    return torch.from_numpy(shown / 10.0)


def clock_cells(episodes: Episodes, clips: Clips) -> torch.Tensor:
    return clock(episodes, clips)[:, None, None].expand(-1, 2, 2, -1)


def change(episodes: Episodes, clips: Clips) -> torch.Tensor:
    """Tell how much later each frame is than the one before."""
    return clock(episodes, clips).diff(dim=1)


def rows_for(reader: Given, config: ProbeConfig = CONFIG) -> list[dict]:
    return asked(reader, prepare(Data(PARTS, "front"), config), config)[1]


def test_features_that_tell_the_time_tell_every_order() -> None:
    config = ProbeConfig(
        probes=("order",), gaps=(6,), headline=6, stride=4, resamples=50,
        readouts=("linear", "mlp", "attentive"),
    )  # fmt: skip
    rows = rows_for(Given(PARTS, clock, clock_cells), config)
    for target, chance in (("two orders", 1 / 2), ("six orders", 1 / 6)):
        for readout in ("linear", "mlp", "attentive"):
            found = pick(rows, target=target, readout=readout)
            assert found["value"] == 1 if readout == "linear" else found["value"] > 0.95
            assert found["chance"] == pytest.approx(chance)


def test_noise_tells_no_order() -> None:
    rows = rows_for(Given(PARTS, noise))
    for target, chance in (("two orders", 1 / 2), ("six orders", 1 / 6)):
        for condition in ("", STATIC):
            assert covers(pick(rows, target=target, condition=condition), chance)


def test_the_first_frame_alone_shows_how_much_is_a_static_cue() -> None:
    timed, changing = rows_for(Given(PARTS, clock)), rows_for(Given(PARTS, change))
    # shown alone, frame t or t + 6: above the middle of what both can be, it is the later one
    start, gap = np.arange(0, 10, 2), 6
    right = np.mean([(start < (start.mean() + gap / 2)), (start + gap > (start.mean() + gap / 2))])
    found = pick(timed, target="two orders", condition=STATIC)
    assert found["value"] == pytest.approx(right, abs=0.02)
    assert found["value"] > 0.7
    for target, chance in (("two orders", 1 / 2), ("six orders", 1 / 6)):
        assert pick(changing, target=target)["value"] == 1
        nothing = pick(changing, target=target, condition=STATIC)  # repeated, it never changes
        assert nothing["value"] == pytest.approx(chance)


def test_every_clip_is_shown_in_every_order() -> None:
    probe = OrderProbe(Data(PARTS, "front"), CONFIG)
    two, six = probe.asked
    assert two.orders == ((0, 6), (6, 0))
    assert six.orders == [tuple(2 * i for i in order) for order in FOUR]
    assert probe.names("two orders") == ["12", "21"]
    assert probe.names("six orders")[:2] == ["1234", "4321"]
    answers = list(probe.answers(Given(PARTS, noise), 0))
    assert {a.key.condition for a in answers} == {"", STATIC}
    for answer in answers:
        clips = len((two if answer.key.target == "two orders" else six).clips["test"].start)
        assert answer.drawn is not None
        np.testing.assert_array_equal(answer.drawn.sum(1), clips)  # every class as often
        assert answer.drawn.trace() == answer.sums[:, 1].sum()  # the diagonal is what is right


@pytest.mark.parametrize(("gap", "six"), [(1, False), (2, False), (3, True), (5, True)])
def test_four_frames_need_a_gap_that_holds_them(gap: int, six: bool) -> None:
    config = ProbeConfig(probes=("order",), gaps=(gap,), headline=gap)
    targets = [shuffled.target for shuffled in OrderProbe(Data(PARTS, "front"), config).asked]
    assert targets == ["two orders"] + ["six orders"] * six


def test_shown_clips_are_no_more_than_the_most_that_is_allowed() -> None:
    config = ProbeConfig(probes=("order",), gaps=(6,), headline=6, most=30)
    two, six = OrderProbe(Data(PARTS, "front"), config).asked
    assert [len(each.clips["train"].start) for each in (two, six)] == [15, 5]
    tiny = ProbeConfig(probes=("order",), gaps=(6,), headline=6, most=3)
    two, six = OrderProbe(Data(PARTS, "front"), tiny).asked
    assert [len(each.clips["train"].start) for each in (two, six)] == [1, 1]  # 0 would mean all


def test_perturbed_parts_are_shown_in_two_orders_at_the_headline_gap() -> None:
    parts = {**PARTS, "test | noise 9": Perturbed(PARTS["test"], "noise", 9.0)}
    config = ProbeConfig(probes=("order",), gaps=(2, 6), headline=6, stride=4, resamples=20)
    probe = OrderProbe(Data(parts, "front"), config)
    worse = [r.clips.offsets for r in probe.requests() if "|" in r.part]
    assert worse == [(0, 6), (6, 0)]
    rows = asked(Given(parts, noise), {"order": probe}, config)[1]
    noisy = [row for row in rows if row["condition"] == "noise 9"]
    assert [(row["target"], row["gap"]) for row in noisy] == [("two orders", 6)]
    assert {row["target"] for row in rows} == {"two orders", "six orders"}
