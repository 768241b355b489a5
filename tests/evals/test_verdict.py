import pytest

from saccade.errors import ConfigError
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.verdict import Verdict, verdict
from tests.evals.hand_made import ACTION, ALL, FLOW, ORDER, asked, floor, pair, row

RANDOM = row("A, random init", 0.3, floor_of="A")
CHANGE = floor("raw pixel change", 0.4)
POSITION = floor("position only", 0.2)


def told(found: Verdict) -> str:
    return " ".join(found.details)


def test_a_method_above_its_random_init_and_every_floor_is_a_success() -> None:
    pairs = [pair("A", "raw pixel change", 0.22), pair("A", "A, random init", 0.32)]
    found = verdict([row("A", 0.62), RANDOM, CHANGE], pairs, ACTION)
    assert found.success
    assert (found.beats_random, found.order) == (["A"], ["A"])
    assert found.sentence == (
        "Pretraining helped here: A beats its own random-init floor, and no floor scored as high; "
        "the best is A (R2 0.62 [0.57, 0.67]) against A, random init (R2 0.30 [0.25, 0.35])."
    )


def test_a_floor_that_wins_is_named_and_takes_the_success_away() -> None:
    change = floor("raw pixel change", 0.7)
    pairs = [pair("A", "raw pixel change", -0.08)]
    found = verdict([row("A", 0.62), RANDOM, change], pairs, ACTION)
    assert not found.success
    assert found.beats_random == ["A"]
    assert found.sentence.startswith("No success: A beats its own random-init floor, but")
    assert "raw pixel change (R2 0.70 [0.65, 0.75]) scored at least as high as A" in found.sentence
    assert "raw pixel change (R2 0.70 [0.65, 0.75]): worse by 0.08 [0.04, 0.12]" in told(found)
    assert "Suspicious: on seen tasks raw pixel change scored at least as well" in told(found)


def test_a_floor_that_draws_level_wins_too() -> None:
    found = verdict([row("A", 0.62), RANDOM, floor("position only", 0.62)], [], ACTION)
    assert not found.success
    assert "sees no picture and scores at least as well as A" in told(found)


def test_another_method_s_random_init_is_a_floor_for_all() -> None:
    rows = [row("A", 0.62), RANDOM, row("B, random init", 0.65, floor_of="B")]
    assert not verdict(rows, [], ACTION).success


def test_overlapping_intervals_are_no_success_even_if_the_pairs_are_separated() -> None:
    pairs = [pair("A", "A, random init", 0.08)]
    found = verdict([row("A", 0.38), RANDOM], pairs, ACTION)
    assert not found.success
    assert found.beats_random == []
    assert found.sentence.startswith("No success: no pretrained encoder beats its own random-init")
    assert "better by 0.08 [0.04, 0.12], Holm p 0.001" in told(found)


def test_a_random_init_that_scores_higher_is_not_beaten_by_disjoint_intervals() -> None:
    found = verdict([row("A", 0.1), RANDOM, CHANGE], [], ACTION)
    assert found.beats_random == []
    assert "raw pixel change scored at least as high" in found.sentence


def test_without_a_random_init_nothing_is_claimed() -> None:
    found = verdict([row("A", 0.62), CHANGE], [], ACTION)
    assert not found.success
    assert "against no random-init floor" in found.sentence


def test_an_interval_that_is_not_known_beats_nothing() -> None:
    found = verdict([row("A", 0.62, low=None, high=None), RANDOM], [], ACTION)
    assert not found.success
    assert "no interval" in found.sentence


def test_a_lower_floor_that_is_not_separated_is_named_in_the_success() -> None:
    pairs = [pair("A", "raw pixel change", 0.02), pair("A", "A, random init", 0.32)]
    found = verdict([row("A", 0.62), RANDOM, floor("raw pixel change", 0.6)], pairs, ACTION)
    assert found.success
    assert found.sentence.endswith("[0.25, 0.35]), not separated from raw pixel change.")


def test_without_pairs_a_lower_floor_counts_as_level_unless_intervals_are_disjoint() -> None:
    found = verdict([row("A", 0.62), RANDOM, CHANGE, floor("raw pixels", 0.6)], [], ACTION)
    assert found.sentence.endswith("[0.25, 0.35]), not separated from raw pixels.")


def three(**changed: str) -> list[dict]:
    randoms = [row(f"{name}, random init", 0.3, floor_of=name, **changed) for name in "ABC"]
    methods = [row("C", 0.33, **changed), row("A", 0.62, **changed), row("B", 0.6, **changed)]
    return [*methods, *randoms, floor("raw pixel change", 0.4, **changed)]


def test_methods_are_ranked_where_separated_and_not_where_they_overlap() -> None:
    found = verdict(three(), [pair("B", "A", -0.02), pair("B", "C", 0.27)], ACTION)
    assert found.order == ["A", "B", "C"]
    assert found.beats_random == ["A", "B"]
    order = found.details[0]
    assert "A and B are not separated: +0.02 [-0.02, +0.06] (with this spread about" in order
    assert "B exceeds C by 0.27 [0.23, 0.31], Holm p 0.001" in order
    assert order.endswith("Not separated from the first, A: B.")  # A and C: disjoint intervals
    assert "A and B beat their own random-init floor" in found.sentence
    assert "C does not beat random init" in found.sentence


def test_a_method_below_a_floor_is_told_beside_the_success() -> None:
    found = verdict([*three(), floor("raw pixels", 0.61)], [], ACTION)
    assert found.success
    assert "B beats its own random-init floor too, but raw pixels scored" in found.sentence


@pytest.mark.parametrize(
    ("seeds", "text"), [([0], "1 training seed "), ([0, 1], "2 training seeds ")]
)
def test_few_seeds_are_told(seeds: list[int], text: str) -> None:
    found = verdict([row("A", 0.62, seeds=seeds), RANDOM, CHANGE], [], ACTION)
    assert f"With {text}per method, no claim across seeds is made." in found.details
    assert "no claim across seeds" not in told(verdict([row("A", 0.62), RANDOM], [], ACTION))


def test_the_floors_that_the_documents_lacked_come_first() -> None:
    rows = [row("A", 0.62), floor("raw pixels", 0.5), CHANGE, POSITION, RANDOM]
    (line,) = [d for d in verdict(rows, [], ACTION).details if "against the floors" in d]
    places = [line.index(n) for n in ("random init", "pixel change", "position only", "raw pixels")]
    assert places == sorted(places)
    assert "not compared pair by pair" in line


def test_the_details_tell_sizes_and_what_was_not_asked() -> None:
    found = verdict([row("A", 0.62), RANDOM, CHANGE], [], ACTION)
    assert "end-effector displacement (camera frame) 5 steps ahead" in told(found)
    assert "24 held-out episodes (480 samples)" in told(found)
    assert "nothing is said about new tasks" in told(found)


def test_unseen_tasks_and_other_data_sets_have_their_own_sentences() -> None:
    unseen, other = three(split="unseen"), three(split="bridge")
    pairs = [
        pair("A", "B", 0.05, split="unseen"),
        pair("A", "raw pixel change", 0.01, split="unseen"),
    ]
    rows = [*three(), *[r for r in unseen if r["representation"][0] != "C"], *other]
    details = verdict(rows, pairs, ACTION).details
    (new,) = [d for d in details if d.startswith("On unseen tasks")]
    assert "A exceeds B by 0.05 [0.01, 0.09], Holm p 0.001" in new
    assert "B exceeds raw pixel change (R2 0.40 [0.35, 0.45]), A does not" in new
    (elsewhere,) = [d for d in details if d.startswith("On the data set bridge")]
    assert "A and B exceed raw pixel change" in elsewhere
    assert "C does not" in elsewhere


def test_unseen_scenes_are_told_between_unseen_tasks_and_other_data() -> None:
    splits = ("unseen", "unseen scenes", "bridge")
    rows = [*three(), *(each for split in splits for each in three(split=split))]
    pairs = [pair("A", "B", 0.05, split="unseen scenes")]
    told = [line for line in verdict(rows, pairs, ACTION).details if line.startswith("On ")]
    assert [line.partition(":")[0] for line in told] == [
        "On unseen tasks", "On unseen scenes", "On the data set bridge",
    ]  # fmt: skip
    assert "A exceeds B by 0.05 [0.01, 0.09], Holm p 0.001" in told[1]
    assert "A exceeds B" not in told[0] + told[2], "the pair is of the scenes"


def test_neither_exceeds_a_floor_that_both_are_level_with() -> None:
    rows = [row("A", 0.42, split="unseen"), row("B", 0.41, split="unseen")]
    rows += [floor("raw pixel change", 0.4, split="unseen"), *three()]
    assert "neither exceeds raw pixel change (R2 0.40" in told(verdict(rows, [], ACTION))


def test_other_gaps_readouts_groups_conditions_and_frames_do_not_count() -> None:
    better = {
        **{"gap": 1, "readout": "mlp", "group": "gripper", "frame": "world", "split": "unseen"},
        **{"metric": "cosine", "condition": "beyond position", "labels": 0.1},
    }
    others = [floor("raw pixel change", 0.9, **{key: value}) for key, value in better.items()]
    assert verdict([row("A", 0.62), RANDOM, CHANGE, *others], [], ACTION).success
    world = [row("A", 0.62, frame="world"), row("R", 0.3, "A", frame="world")]
    found = verdict(world, [], ACTION)
    assert found.success
    assert "labels are known in the world frame only" in told(found)


def test_without_trained_weights_nothing_is_claimed() -> None:
    floors = [floor("dinov2-base, random weights", 0.3), CHANGE]
    found = verdict(floors, [], ALL)
    assert not found.success
    assert (found.order, found.beats_random) == ([], [])
    assert found.sentence == (
        "No encoder here has trained weights, so nothing is claimed about training; the best of "
        "the floors is raw pixel change (R2 0.40 [0.35, 0.45])."
    )


def test_a_score_that_is_not_defined_claims_nothing() -> None:
    found = verdict([row("A", None), floor("copy", None)], [], ACTION)
    assert not found.success
    assert found.sentence.startswith("No method has a defined R2 of end-effector displacement")


def test_where_motion_was_not_asked_the_first_probe_is_the_headline() -> None:
    config = ProbeConfig(probes=("flow", "order"))
    rows = [row("A", 1.0, **FLOW), row("A, random init", 1.5, "A", **FLOW)]
    rows += [row("A", 0.8, **ORDER)]
    found = verdict(rows, [pair("A", "A, random init", -0.5, **asked(FLOW))], config)
    assert found.success
    assert "A (EPE 1.00 [0.95, 1.05]) against A, random init (EPE 1.50" in found.sentence
    assert "EPE of optical flow (simulator, all cells, percent of the side)" in told(found)
    assert "A (accuracy 0.80" in told(found)
    worse = [*rows, floor("copy", 0.9, **FLOW)]
    assert "copy (EPE 0.90 [0.85, 0.95]) scored at least as well" in (
        verdict(worse, [], config).sentence
    )


def test_no_headline_score_is_an_error() -> None:
    with pytest.raises(ConfigError, match="among 1 rows"):
        verdict([row("A", 0.62, metric="cosine")], [], ACTION)
