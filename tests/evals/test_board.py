import pytest

from saccade.evals.board import Board, bounded, question_of
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.statistics import episodes_needed, standard_error
from tests.evals.hand_made import ACTION, ALL, CLUSTERS, FLOW, ORDER, asked, floor, pair, row


def board(rows: list, pairs: list, probe: str = "action", split: str = "test") -> Board:
    question = question_of(rows, ALL, probe)
    assert question is not None
    return Board(rows, pairs, question, split)


def test_the_question_is_the_headline_gap_and_the_first_readout_in_the_camera_frame() -> None:
    rows = [
        row("A", 0.6, group=group, frame=frame, gap=gap, readout=readout)
        for group in ("gripper", "position")
        for frame in ("world", "camera")
        for gap in (1, 5, 10)
        for readout in ("mlp", "linear")
    ]
    found = question_of(rows, ProbeConfig(readouts=("linear", "mlp")), "action")
    assert found is not None
    assert found[:6] == ("action", "displacement", "position", "camera", "linear", 5)
    world = question_of([r for r in rows if r["frame"] == "world"], ACTION, "action")
    assert world is not None
    assert world.frame == "world"


def test_a_hand_is_asked_about_where_there_is_no_position() -> None:
    rows = [row("A", 0.6, target="hand", group=group) for group in ("wrist", "hand")]
    found = question_of(rows, ACTION, "action")
    assert found is not None
    assert (found.target, found.group) == ("hand", "hand")


def test_each_probe_has_its_headline_question_and_others_none() -> None:
    rows = [
        row("A", 0.5, **(FLOW | {"group": "moving cells"})),
        row("A", 0.6, **FLOW),
        row("A", 0.7, **(ORDER | {"target": "six orders"})),
        row("A", 0.8, **ORDER),
        row("A", 0.9, **(CLUSTERS | {"metric": "nmi"})),
        row("A", 0.4, **CLUSTERS),
    ]
    values = [board(rows, [], probe).methods[0]["value"] for probe in ("flow", "order", "clusters")]
    assert values == [0.6, 0.8, 0.4]
    assert question_of(rows, ALL, "action") is None
    assert question_of([row("A", 0.6, condition="noise 16")], ALL, "action") is None


def test_an_error_is_better_the_lower_it_is_whichever_way_the_pair_was_written() -> None:
    rows = [row("A", 1.4, **FLOW), row("B", 1.0, **FLOW), floor("copy", 1.2, **FLOW)]
    found = board(rows, [pair("A", "B", 0.4, **asked(FLOW))], "flow")
    assert [r["representation"] for r in found.methods] == ["B", "A"]
    best, worst = found.methods
    assert found.lead(best, worst) == pytest.approx((0.4, 0.36, 0.44, 0.001))
    assert found.lead(worst, best) == pytest.approx((-0.4, -0.44, -0.36, 0.001))
    assert found.winners(best) == []
    assert [r["representation"] for r in found.winners(worst)] == ["copy"]
    assert found.compared(worst, best).startswith("B errs less than A by 0.40 [0.36, 0.44]")


def test_what_does_not_survive_correction_is_not_separated() -> None:
    rows = [row("A", 0.62), row("B", 0.57)]
    found = board(rows, [pair("A", "B", 0.05, p_holm=0.2)])
    assert not found.separated(*found.methods)
    assert "not after correction for all comparisons, Holm p 0.200" in found.compared(
        *found.methods
    )
    rows.append(floor("copy", 0.5))
    weak = board(rows, [pair("A", "copy", 0.12, p_holm=0.2)])
    assert weak.briefly(weak.methods[0], weak.floors[0]) == (
        "copy (R2 0.50 [0.45, 0.55]): better by 0.12 [0.08, 0.16], but not after correction, "
        "Holm p 0.200"
    )
    assert board(rows, [pair("A", "B", 0.05, p_holm=0.05)]).separated(*found.methods)


def test_the_sample_that_would_separate_two_is_that_of_their_spread() -> None:
    found = board([row("A", 0.62), row("B", 0.6)], [pair("A", "B", 0.02)])
    needed = episodes_needed(0.02, standard_error(-0.02, 0.06, 24) * 24**0.5)
    told = found.compared(*found.methods)
    assert "A and B are not separated: +0.02 [-0.02, +0.06]" in told
    assert f"about {needed} episodes would separate a difference of that size" in told
    same = board([row("A", 0.62), row("B", 0.62)], [pair("A", "B", 0.0)])
    assert "episodes" not in same.compared(*same.methods)  # no number separates equals


def test_without_a_pair_only_disjoint_intervals_separate() -> None:
    found = board([row("A", 0.62), row("B", 0.57), row("C", 0.3)], [])
    a, b, c = found.methods
    assert (found.separated(a, b), found.separated(a, c)) == (False, True)
    assert "not compared pair by pair (overlapping intervals)" in found.compared(a, b)


@pytest.mark.parametrize(
    ("question", "name"),
    [(FLOW | {"target": "DIS"}, "flow histogram"), (CLUSTERS, "task only")],
)
def test_a_floor_made_of_the_label_is_none(question: dict, name: str) -> None:
    rows = [row("A", 0.5, **question), floor(name, 1.0, **question), floor("copy", 1, **question)]
    found = board(rows, [], question["probe"])
    assert [r["representation"] for r in found.floors] == ["copy"]
    action = board([row("A", 0.5), floor(name, 0.4)], [])
    assert [r["representation"] for r in action.floors] == [name]


def test_a_score_without_a_value_does_not_answer() -> None:
    found = board([row("A", None), row("B", 0.1)], [])
    assert [r["representation"] for r in found.methods] == ["B"]


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ((0.04, 0.01, 0.07), "0.04 [0.01, 0.07]"),
        ((0.03, 0.0041, 0.056), "0.030 [0.004, 0.056]"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
    ],
)
def test_no_bound_is_rounded_to_nothing(numbers: tuple[float, float, float], written: str) -> None:
    assert bounded(*numbers) == written
