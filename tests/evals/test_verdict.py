from typing import Any

import pytest

from saccade.errors import ConfigError
from saccade.evals.verdict import verdict


def row(name: str, r2: float, floor_of: str | None = None, **changed: Any) -> dict[str, Any]:
    return {
        "representation": name,
        "kind": "floor" if floor_of is not None else "method",
        "floor_of": floor_of or None,
        "seeds": [0, 1, 2],
        "readout": "linear",
        "gap": 5,
        "split": "test",
        "target": "displacement",
        "frame": "camera",
        "group": "position",
        "r2": r2,
        "r2_low": r2 - 0.05,
        "r2_high": r2 + 0.05,
        "episodes": 24,
        "windows": 480,
    } | changed


def floor(name: str, r2: float, **changed: Any) -> dict[str, Any]:
    return row(name, r2, floor_of="", **changed)


def pair(a: str, b: str, difference: float, half: float = 0.04) -> dict[str, Any]:
    bounds = {"difference": difference, "low": difference - half, "high": difference + half}
    return {"a": a, "b": b, "gap": 5, "split": "test", "group": "position", "p": 0.01} | bounds


RANDOM = row("random init of A", 0.3, floor_of="A")
CHANGE = floor("raw pixel change", 0.4)


def test_a_method_above_its_random_init_and_every_floor_is_a_success() -> None:
    pairs = [pair("A", "raw pixel change", 0.22), pair("A", "random init of A", 0.32)]
    found = verdict([row("A", 0.62), RANDOM, CHANGE], pairs)
    assert found.success
    assert (found.beats_random, found.order) == (["A"], ["A"])
    assert found.sentence == (
        "Pretraining helped here: A beats its own random-init floor, and no floor scored as high; "
        "the best is A (R2 0.62 [0.57, 0.67]) against random init of A (R2 0.30 [0.25, 0.35])."
    )


def test_a_floor_that_wins_is_named_and_takes_the_success_away() -> None:
    change = floor("raw pixel change", 0.7)
    found = verdict([row("A", 0.62), RANDOM, change], [pair("A", "raw pixel change", -0.08)])
    assert not found.success
    assert found.beats_random == ["A"]
    assert found.sentence.startswith("No success: A beats its own random-init floor, but")
    assert "raw pixel change (R2 0.70 [0.65, 0.75]) scored at least as high as A" in found.sentence


def test_a_floor_that_draws_level_wins_too() -> None:
    assert not verdict([row("A", 0.62), RANDOM, floor("position only", 0.62)], []).success


def test_another_method_s_random_init_is_a_floor_for_all() -> None:
    rows = [row("A", 0.62), RANDOM, row("random init of B", 0.65, floor_of="B")]
    assert not verdict(rows, []).success


def test_overlapping_intervals_are_no_success_even_if_the_pairs_are_separated() -> None:
    found = verdict([row("A", 0.38), RANDOM], [pair("A", "random init of A", 0.08)])
    assert not found.success
    assert found.beats_random == []
    assert found.sentence.startswith("No success: no pretrained encoder beats its own random-init")


def test_a_random_init_that_scores_higher_is_not_beaten_by_disjoint_intervals() -> None:
    found = verdict([row("A", 0.1), RANDOM, CHANGE], [])
    assert found.beats_random == []
    assert "raw pixel change scored at least as high" in found.sentence


def test_without_a_random_init_nothing_is_claimed() -> None:
    found = verdict([row("A", 0.62), CHANGE], [])
    assert not found.success
    assert "against no random-init floor" in found.sentence


def test_an_interval_that_is_not_known_beats_nothing() -> None:
    found = verdict([row("A", 0.62, r2_low=None, r2_high=None), RANDOM], [])
    assert not found.success
    assert "no interval" in found.sentence


def test_a_lower_floor_that_is_not_separated_is_named_in_the_success() -> None:
    pairs = [pair("A", "raw pixel change", 0.02), pair("A", "random init of A", 0.32)]
    found = verdict([row("A", 0.62), RANDOM, floor("raw pixel change", 0.6)], pairs)
    assert found.success
    assert found.sentence.endswith("[0.25, 0.35]), not separated from raw pixel change.")


def test_without_pairs_a_lower_floor_counts_as_level_unless_intervals_are_disjoint() -> None:
    found = verdict([row("A", 0.62), RANDOM, CHANGE, floor("raw pixels", 0.6)], [])
    assert found.sentence.endswith("[0.25, 0.35]), not separated from raw pixels.")


def three() -> list[dict[str, Any]]:
    randoms = [row(f"random init of {name}", 0.3, floor_of=name) for name in "ABC"]
    return [row("C", 0.33), row("A", 0.62), row("B", 0.6), *randoms, CHANGE]


def test_the_order_tells_ties_from_differences_whichever_way_the_pair_was_written() -> None:
    found = verdict(three(), [pair("B", "A", -0.02), pair("B", "C", 0.27)])
    assert found.order == ["A", "B", "C"]
    assert found.beats_random == ["A", "B"]
    assert "A over B (not separated: difference +0.020 [-0.020, +0.060])" in found.details[0]
    assert "B over C (difference +0.270 [+0.230, +0.310])" in found.details[0]
    assert "A and B beat their own random-init floor" in found.sentence
    assert "C does not beat random init" in found.sentence


def test_a_method_below_a_floor_is_told_beside_the_success() -> None:
    rows = [*three(), floor("raw pixels", 0.61)]
    found = verdict(rows, [])
    assert found.success
    assert "B beats its own random-init floor too, but raw pixels scored" in found.sentence


@pytest.mark.parametrize(
    ("seeds", "told"), [([0], "1 training seed "), ([0, 1], "2 training seeds ")]
)
def test_few_seeds_are_told(seeds: list[int], told: str) -> None:
    found = verdict([row("A", 0.62, seeds=seeds), RANDOM, CHANGE], [])
    assert f"With {told}per method, no claim across seeds is made." in found.details


def test_the_details_tell_sizes_floors_and_unseen_tasks() -> None:
    seen = [row("A", 0.62), RANDOM, CHANGE]
    told = " ".join(verdict(seen, []).details)
    assert "24 held-out episodes (480 pairs)" in told
    assert "raw pixel change (R2 0.40 [0.35, 0.45]), not compared pair by pair" in told
    assert "nothing is said about new tasks" in told
    unseen = [row("A", 0.2, split="unseen"), floor("raw pixel change", 0.35, split="unseen")]
    told = " ".join(verdict(seen + unseen, []).details)
    assert "On unseen tasks: A (R2 0.20 [0.15, 0.25]); the best floor there is raw pixel" in told


def test_other_gaps_readouts_groups_and_frames_do_not_count() -> None:
    better = {"gap": 1, "readout": "mlp", "group": "gripper", "frame": "world", "split": "unseen"}
    others = [floor("raw pixel change", 0.9, **{key: value}) for key, value in better.items()]
    assert verdict([row("A", 0.62), RANDOM, CHANGE, *others], []).success
    assert verdict([row("A", 0.62, frame="world"), row("R", 0.3, "A", frame="world")], []).success


def test_no_headline_number_is_an_error() -> None:
    with pytest.raises(ConfigError, match="gap 7"):
        verdict([row("A", 0.62), RANDOM], [], gap=7)
