from typing import Any

import numpy as np
import pytest

from saccade.evals.criteria import criteria, judge, outcome_of, widened
from saccade.evals.probe import Probed, compare, rows_of
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.statistics import Estimate, clustered_wilson, mean_error, paired_ratio, student
from saccade.report.records import check_record
from saccade.report.results import Criterion
from tests.evals.hand_made import (
    ACTION,
    ALL,
    CLUSTERS,
    FLOW,
    ORDER,
    floor,
    pair,
    probed,
    row,
    scored,
)

RNG = np.random.default_rng(5)
NAMES = [
    *("optical flow", "temporal order", "training shows", "raw pixel change", "position only"),
    *("two streams over one", "two streams over VideoMAE", "task clusters", "unseen tasks"),
    "original bar",
]
REPEATS = 200


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Draw the same whichever tests ran before."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def found(
    name: str,
    rows: list[dict],
    pairs: tuple[dict, ...] = (),
    asked: tuple[Probed, ...] = (),
    config: ProbeConfig = ALL,
) -> dict[str, Any]:
    every = criteria(rows, list(pairs), asked, config)
    assert [each["name"] for each in every] == NAMES
    for each in every:
        check_record(each, Criterion, "results.json")
        assert each["detail"].endswith(".")
        assert each["episodes_needed"] is None or each["result"] == "undecided"
    return next(each for each in every if each["name"] == name)


def answered(name: str, *asked: Probed) -> dict[str, Any]:
    """Judge sums, by way of the rows and pairs that a comparison writes of them."""
    rows = [row for each in asked for row in rows_of(each, ALL)]
    return found(name, rows, tuple(compare(asked, ALL)), asked)


def errors(factor: float, base: np.ndarray, spread: float = 0.05, seeds: int = 3) -> np.ndarray:
    """Make sums of 20 windows an episode, whose mean errors are near a factor of the base."""
    noise = 1 + spread * RNG.normal(size=(seeds, len(base)))
    return np.stack([np.full(noise.shape, 20.0), 20 * factor * base * noise], -1)


def rights(share: float, episodes: int = 40, seeds: int = 3, spread: float = 30) -> np.ndarray:
    """Make sums of 50 windows an episode, each right with its episode's own probability."""
    chance = RNG.beta(spread * share, spread * (1 - share), episodes) if share < 1 else 1.0
    right = RNG.binomial(50, chance, (seeds, episodes))
    return np.stack([np.full(right.shape, 50.0), right.astype(float)], -1)


def flows(**tables: np.ndarray) -> list[Probed]:
    names = {"dino": "dinov2-base (concatenation)"}
    return [
        probed(names.get(name, name), [scored(FLOW, table)], seeds=range(len(table)))
        for name, table in tables.items()
    ]


def test_without_trained_weights_no_bar_is_asked() -> None:
    for each in criteria([floor("dinov2-base, random weights", 0.3)], [], [], ALL):
        assert each["result"] == "not asked"
        assert "no encoder here has trained weights" in each["detail"]


def test_what_was_not_probed_is_not_asked() -> None:
    rows = [row("A", 0.6), row("A, random init", 0.3, "A")]
    results = {each["name"]: each["result"] for each in criteria(rows, [], [], ALL)}
    assert [name for name, result in results.items() if result != "not asked"] == [
        "training shows",
        "original bar",
    ]


@pytest.mark.parametrize(
    ("factor", "spread", "result"),
    [(0.7, 0.05, "pass"), (0.9, 0.05, "fail"), (0.78, 0.6, "undecided")],
)
def test_flow_is_held_against_dinov2(factor: float, spread: float, result: str) -> None:
    base = RNG.uniform(1, 3, 30)
    each = answered("optical flow", *flows(A=errors(factor, base, spread), dino=errors(1, base, 0)))
    assert each["result"] == result
    assert "(30 episodes, 3 seeds)" in each["detail"]
    assert "times as much as dinov2-base (concatenation) (EPE" in each["detail"]
    assert (each["episodes_needed"] is None) == (result != "undecided")


def test_flow_needs_a_trained_dinov2_and_another() -> None:
    base = np.ones(30)
    (ours, known) = flows(A=errors(0.7, base), dino=errors(1, base))
    assert "no DINOv2 with trained weights" in answered("optical flow", ours)["detail"]
    assert "besides DINOv2" in answered("optical flow", known)["detail"]
    random = probed("dinov2-base, random weights", [scored(FLOW, errors(1, base))], floor_of="")
    assert answered("optical flow", ours, random)["result"] == "not asked"


def test_flow_is_held_against_the_best_dinov2() -> None:
    base = np.ones(30)
    ours, weak = flows(A=errors(0.7, base), dino=errors(1, base))
    strong = probed("dinov2-base (difference)", [scored(FLOW, errors(0.8, base))])
    assert answered("optical flow", ours, weak)["result"] == "pass"
    assert answered("optical flow", ours, weak, strong)["result"] == "fail"


def ordered(plain: np.ndarray, static: np.ndarray | None, **changed: str) -> Probed:
    scores = [scored(ORDER | changed, plain)]
    if static is not None:
        scores.append(scored(ORDER, static, "first frame only"))
    return probed("A", scores, seeds=range(len(plain)))


@pytest.mark.parametrize(
    ("plain", "static", "result"),
    [
        (0.98, 0.6, "pass"),
        (0.98, 1.0, "fail"),  # the first frame tells as much
        (0.7, 0.5, "fail"),
        (0.91, 0.6, "undecided"),
        (1.0, 1.0, "fail"),  # nothing is left for the second frame
        (1.0, 0.6, "pass"),
        (0.98, None, "undecided"),
    ],
)
def test_order_needs_ninety_percent_and_more_than_a_static_cue(
    plain: float, static: float | None, result: str
) -> None:
    alone = None if static is None else rights(static)
    each = answered("temporal order", ordered(rights(plain), alone))
    assert each["result"] == result
    assert ("first frame alone was not asked" in each["detail"]) == (static is None)
    assert bool(each["episodes_needed"]) == (plain == 0.91)


def test_the_static_control_is_linear_whatever_the_first_readout() -> None:
    config = ProbeConfig(probes=("order",), readouts=("mlp",), resamples=200)
    asked = (ordered(rights(0.98), rights(0.6), readout="mlp"),)
    rows = [row for each in asked for row in rows_of(each, config)]
    assert found("temporal order", rows, (), asked, config)["result"] == "pass"


FLOORS = {
    "training shows": "A, random init",
    "raw pixel change": "raw pixel change",
    "position only": "position only",
}


@pytest.mark.parametrize("name", FLOORS)
@pytest.mark.parametrize(
    ("difference", "result"), [(0.2, "pass"), (-0.2, "fail"), (0.02, "undecided")]
)
def test_motion_must_exceed_each_floor(name: str, difference: float, result: str) -> None:
    rows = [row("A", 0.6), floor("raw pixel change", 0.4), floor("position only", 0.4)]
    rows += [row("A, random init", 0.4, "A")]
    each = found(name, rows, (pair("A", FLOORS[name], difference),), config=ACTION)
    assert each["result"] == result
    assert f"{FLOORS[name]} (R2 0.40 [0.35, 0.45])" in each["detail"]
    if result == "undecided":
        assert each["episodes_needed"] > 24


def test_a_floor_that_is_not_there_and_a_pair_that_is_not_there() -> None:
    rows = [row("A", 0.6), row("A, random init", 0.3, "A")]
    assert "position only was not among the floors" in found("position only", rows)["detail"]
    each = found("training shows", rows)
    assert (each["result"], each["episodes_needed"]) == ("undecided", None)
    assert "no paired interval" in each["detail"]


def test_one_method_that_passes_is_enough_and_all_must_fail() -> None:
    rows = [row("A", 0.6), row("B", 0.5), floor("raw pixel change", 0.45)]

    def result(a: float, b: float) -> dict[str, Any]:
        pairs = (pair("A", "raw pixel change", a), pair("B", "raw pixel change", b))
        return found("raw pixel change", rows, pairs)

    some, none, both = result(0.2, -0.2), result(0.01, -0.2), result(-0.1, -0.2)
    assert [each["result"] for each in (some, none, both)] == ["pass", "undecided", "fail"]
    assert "interval for the best of 2); 1 of 2 passes" in some["detail"]
    assert none["episodes_needed"] > 24
    assert "A (R2 0.60" in both["detail"]  # the nearest to passing


RIVALS = {"two streams over one": "single-stream", "two streams over VideoMAE": "video_mae tiny"}


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize(
    ("difference", "seeds", "result"),
    [(0.1, 3, "pass"), (-0.1, 3, "fail"), (0.02, 3, "undecided"), (0.1, 2, "undecided")],
)
def test_two_streams_are_compared_across_seeds(
    name: str, difference: float, seeds: int, result: str
) -> None:
    other = RIVALS[name]
    rows = [row("two_stream strong", 0.6), row(other, 0.5, seeds=list(range(seeds)))]
    each = found(name, rows, (pair(other, "two_stream strong", -difference),))
    assert each["result"] == result
    assert ("by seeds: 3 of each" in each["detail"]) == (seeds == 2)
    assert bool(each["episodes_needed"]) == (result == "undecided" and seeds == 3)


def test_published_videomae_is_no_equal_budget() -> None:
    rows = [row("two-stream", 0.6), row("videomae-base", 0.7)]
    each = found("two streams over VideoMAE", rows)
    assert (each["result"], each["detail"]) == (
        "not asked",
        "no trained video-mae is among the encoders.",
    )


def test_clusters_are_held_against_the_same_network_untrained() -> None:
    base = RNG.uniform(0.3, 0.5, 30)
    trained = probed("A", [scored(CLUSTERS, errors(1.3, base))])
    random = probed("A, random init", [scored(CLUSTERS, errors(1, base))], floor_of="A")
    assert answered("task clusters", trained, random)["result"] == "pass"
    behaviour = CLUSTERS | {"target": "behaviour"}
    each = answered("task clusters", probed("A", [scored(behaviour, errors(1, base))]))
    assert each["detail"] == "episodes name no tasks to tell apart."


@pytest.mark.parametrize(
    ("seen", "unseen", "result"),
    [(0.6, 0.5, "pass"), (0.6, 0.1, "fail"), (0.6, 0.32, "undecided"), (-0.2, 0.1, "fail")],
)
def test_half_of_the_score_must_be_left_on_unseen_tasks(
    seen: float, unseen: float, result: str
) -> None:
    rows = [row("A", seen), row("A", unseen, split="unseen"), row("B", -0.3)]
    each = found("unseen tasks", rows)
    assert each["result"] == result
    # the margins of both intervals: 0.05 of the one, half of 0.05 of the other
    value, half = unseen - seen / 2, np.hypot(0.05, 0.025)
    assert f"{value:+.2f} [{value - half:+.2f}, {value + half:+.2f}]" in each["detail"]
    assert found("unseen tasks", rows[:1])["detail"] == "no unseen task was probed."


@pytest.mark.parametrize(("value", "result"), [(0.8, "pass"), (0.6, "fail"), (0.72, "undecided")])
def test_the_original_bar(value: float, result: str) -> None:
    each = found("original bar", [row("A", value)])
    assert each["result"] == result
    assert "end-effector displacement (camera frame), 5 steps ahead" in each["detail"]


def test_five_episodes_decide_nothing() -> None:
    each = found("original bar", [row("A", 0.9, episodes=5)])
    assert (each["result"], each["episodes_needed"]) == ("undecided", 6)
    assert found("original bar", [row("A", 0.9, episodes=6)])["result"] == "pass"


def test_a_bar_that_is_enough_and_one_that_must_be_exceeded() -> None:
    same = Estimate(0.0, 0.0, 0.0)
    assert judge(same, 0.0, 24) == ("fail", None)
    assert judge(same, 0.0, 24, strict=False) == ("pass", None)
    assert judge(Estimate(0.0, -1.0, 1.0), 0.0, 24) == ("undecided", None)  # no number decides
    assert judge(Estimate(0.7, 0.6, 0.8), 0.8, 24, above=False, strict=False) == ("pass", None)
    assert judge(Estimate(0.7, float("nan"), 0.8), 0.8, 24)[0] == "undecided"


def test_an_interval_for_the_best_of_many_is_that_of_a_smaller_error() -> None:
    wide = widened(Estimate(1.0, 0.0, 3.0), 11, 5)
    factor = student(0.995, 10) / student(0.975, 10)
    assert wide == pytest.approx((1.0, 1 - factor, 1 + 2 * factor))
    assert widened(wide, 11, 1) == wide


def rates(results: list[str]) -> dict[str, float]:
    return {name: results.count(name) / REPEATS for name in ("pass", "fail", "undecided")}


def means(truth: float, episodes: int) -> dict[str, float]:
    """Judge differences that are so large in truth, by Student's interval."""
    drawn = RNG.normal(truth, 0.1, (REPEATS, episodes))
    value, error = drawn.mean(1), drawn.std(1, ddof=1) / episodes**0.5
    half = student(0.975, episodes - 1) * error
    bounds = np.stack([value, value - half, value + half], 1).tolist()
    return rates([outcome_of(Estimate(*each), 0.0, episodes) for each in bounds])


def test_differences_are_decided_at_the_stated_rates() -> None:
    none = means(0.0, 24)
    assert max(none["pass"], none["fail"]) <= 0.06  # 2.5 % by design
    assert means(0.08, 24)["pass"] > 0.9
    assert means(-0.08, 24)["fail"] > 0.9


def test_the_best_of_eight_that_are_no_better_passes_no_oftener_than_one() -> None:
    drawn = RNG.normal(0, 1, (2000, 8, 24))
    value, half = drawn.mean(-1), student(0.975, 23) * drawn.std(-1, ddof=1) / 24**0.5
    plain = Estimate(value, value - half, value + half)

    def passing(estimate: Estimate) -> float:
        return float((np.asarray(estimate.low) > 0).any(1).mean())

    assert passing(widened(plain, 24, 8)) == pytest.approx(0.025, abs=0.012)
    assert passing(plain) > 0.12


def test_the_sample_that_would_decide_decides_in_four_of_five() -> None:
    deviation, truth, few = 0.1, 0.03, 24
    half = student(0.975, few - 1) * deviation / few**0.5
    rows = [row("A", 0.43, episodes=few), floor("raw pixel change", 0.4)]
    pairs = (pair("A", "raw pixel change", truth, half),)
    first = found("raw pixel change", rows, pairs, config=ACTION)
    assert first["result"] == "undecided"
    assert 0.7 < means(truth, first["episodes_needed"])["pass"] < 0.9


def flow_of(ratio: float) -> dict[str, float]:
    """Judge errors of a true ratio over 40 episodes that differ in difficulty."""
    results = []
    for _ in range(REPEATS):
        base = RNG.lognormal(0, 0.5, 40)
        ours, theirs = errors(ratio, base, 0.2, 1), errors(1, base, 0.2, 1)
        estimate = paired_ratio(ours, theirs, mean_error, 200)
        results.append(outcome_of(estimate, 0.8, 40, above=False, strict=False))
    return rates(results)


def test_flow_is_decided_at_the_stated_rates() -> None:
    at_bar = flow_of(0.8)
    assert max(at_bar["pass"], at_bar["fail"]) <= 0.07
    assert flow_of(0.66)["pass"] > 0.9
    assert flow_of(0.96)["fail"] > 0.9


def order_of(share: float) -> dict[str, float]:
    """Judge a true accuracy over 40 episodes that differ."""
    tables = [rights(share, seeds=1) for _ in range(REPEATS)]
    return rates([outcome_of(clustered_wilson(t), 0.9, 40, strict=False) for t in tables])


def test_order_is_decided_at_the_stated_rates() -> None:
    at_bar = order_of(0.9)
    assert max(at_bar["pass"], at_bar["fail"]) <= 0.07
    assert order_of(0.96)["pass"] > 0.9
    assert order_of(0.82)["fail"] > 0.9
