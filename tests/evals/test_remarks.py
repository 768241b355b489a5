from saccade.evals.probes.base import ProbeConfig
from saccade.evals.verdict import verdict
from tests.evals.hand_made import ALL, CLUSTERS, FLOW, ORDER, asked, floor, pair, row

BASE = [
    row("A", 0.62),
    row("A, random init", 0.3, "A"),
    floor("raw pixel change", 0.4),
    floor("position only", 0.2),
]


def told(*rows: dict, pairs: tuple[dict, ...] = (), config: ProbeConfig = ALL) -> list[str]:
    return verdict([*BASE, *rows], list(pairs), config).details


def starting(details: list[str], begin: str) -> str:
    (found,) = [line for line in details if line.startswith(begin)]
    return found


def suspicious(details: list[str]) -> str:
    return " ".join(line for line in details if line.startswith("Suspicious"))


def test_flow_names_the_best_its_floors_and_its_moving_cells() -> None:
    rows = [row("A", 1.2, **FLOW), row("B", 1.21, **FLOW), floor("copy", 1.5, **FLOW)]
    rows += [row("A", 4.0, **(FLOW | {"group": "moving cells"}))]
    pairs = (pair("A", "copy", -0.3, **asked(FLOW)), pair("A", "B", -0.01, **asked(FLOW)))
    line = starting(told(*rows, pairs=pairs), "Of optical flow (simulator, all cells")
    assert "the best is A (EPE 1.20 [1.15, 1.25])" in line
    assert "copy (EPE 1.50 [1.45, 1.55]): better by 0.30 [0.26, 0.34]" in line
    assert "B is not separated from it" in line
    assert "of moving cells alone its EPE is 4.00" in line


def test_order_is_told_beside_its_static_cue() -> None:
    rows = [
        row("A", 0.87, **ORDER),
        row("A", 0.61, condition="first frame only", **ORDER),
        row("A", 0.5, **(ORDER | {"target": "six orders", "chance": 1 / 6})),
    ]
    details = told(*rows)
    line = starting(details, "Of two orders (chance 0.50)")
    assert "A (accuracy 0.87 [0.82, 0.92])" in line
    assert "from the first frame alone 0.61 [0.56, 0.66]" in line
    assert "of six orders 0.50 [0.45, 0.55] (chance 0.17)" in line
    assert suspicious(details) == ""


def test_an_order_that_the_first_frame_tells_is_suspicious() -> None:
    rows = [row("A", 0.87, **ORDER), row("A", 0.85, condition="first frame only", **ORDER)]
    assert "first frame alone tells the order as well as the pair: A (0.85" in suspicious(
        told(*rows)
    )


def test_what_does_not_exceed_chance_needs_no_warning() -> None:
    rows = [row("A", 0.52, **ORDER), row("A", 0.52, condition="first frame only", **ORDER)]
    assert suspicious(told(*rows)) == ""


def test_the_control_is_found_where_the_first_readout_is_not_linear() -> None:
    config = ProbeConfig(probes=("order",), readouts=("mlp",))
    rows = [
        row("A", 0.9, **(ORDER | {"readout": "mlp"})),
        row("A", 0.88, condition="first frame only", **ORDER),
    ]
    details = verdict(rows, [], config).details
    assert "first frame alone tells the order" in suspicious(details)


def test_clusters_are_told_beside_chance_and_appearance() -> None:
    rows = [
        row("A", 0.6, **CLUSTERS),
        row("A, random init", 0.4, "A", **CLUSTERS),
        row("A", 0.55, condition="first frame only", **CLUSTERS),
        row("A", 0.3, **(CLUSTERS | {"target": "behaviour", "chance": 0.12})),
    ]
    line = starting(told(*rows), "Of clusters by task (chance 0.20)")
    assert "A (purity 0.60 [0.55, 0.65]), against A, random init (purity 0.40" in line
    assert "from the first frame alone 0.55" in line
    assert "purity of behaviours 0.30 [0.25, 0.35] (chance 0.12)" in line


def test_factors_say_what_is_left_of_what_and_never_call_it_a_share() -> None:
    rows = [
        row("A", 0.31, condition="beyond position"),
        floor("raw pixel change", 0.24, condition="beyond position"),
        row("A", 0.4, condition="beyond appearance"),
        row("A", 0.12, condition="no motion shown"),
    ]
    details = told(*rows)
    assert starting(details, "A reads R2 0.62 of the motion") == (
        "A reads R2 0.62 of the motion, 0.31 [0.26, 0.36] of what position does not tell "
        "(raw pixel change: 0.24 [0.19, 0.29]), 0.40 [0.35, 0.45] of what the first frame does "
        "not tell, 0.12 [0.07, 0.17] without any motion shown."
    )
    assert suspicious(details) == ""
    still = told(row("A", 0.6, condition="no motion shown"))
    assert "A is not clearly worse where no motion is shown" in suspicious(still)


def test_curves_go_from_few_labels_to_all() -> None:
    details = told(row("A", 0.41, labels=0.1), row("A", 0.33, labels=0.05))
    assert starting(details, "A reads R2 with 5 %") == (
        "A reads R2 with 5 % of the labels 0.33 [0.28, 0.38], with 10 % of the labels "
        "0.41 [0.36, 0.46], against 0.62 with all."
    )


def test_robustness_tells_the_worst_and_the_floor_there() -> None:
    rows = [
        row("A", 0.5, condition="noise 16"),
        row("A", 0.21, condition="camera shift 0.05"),
        floor("raw pixel change", 0.3, condition="camera shift 0.05"),
        row("A", 0.1, condition="beyond position"),  # a control, no perturbation
    ]
    line = starting(told(*rows), "Of 2 perturbations at test time camera shift 0.05 hurts A most")
    assert "R2 0.21 [0.16, 0.26] is left of 0.62" in line
    assert "the best floor there is raw pixel change (R2 0.30" in line


def test_what_was_asked_and_has_no_answer_is_said() -> None:
    details = told()
    for name in ALL.probes[1:]:
        assert f"The probe {name} was asked, but no method has a score there." in details
    assert not any("was asked" in line for line in told(config=ProbeConfig()))


def test_scores_that_are_too_good_are_suspicious() -> None:
    details = told(row("A", 1.0, **ORDER), row("B", 0.995, gap=1), floor("F", 1.0, **CLUSTERS))
    line = suspicious(details)
    assert "A in order (accuracy 1)" in line
    assert "B in action (R2 0.995)" in line
    assert "F in" not in line


def test_floors_that_win_on_another_split_are_suspicious() -> None:
    unseen = [row("A", 0.1, split="unseen"), floor("position only", 0.3, split="unseen")]
    line = suspicious(told(*unseen))
    assert "on unseen tasks position only (R2 0.30 [0.25, 0.35]) sees no picture" in line
    assert "on seen tasks" not in line
    places = [{**each, "split": "unseen scenes"} for each in unseen]
    assert "on unseen scenes position only (R2 0.30" in suspicious(told(*places))


def test_a_headline_without_plain_floors_is_suspicious() -> None:
    rows = [row("A", 0.62), row("A, random init", 0.3, "A")]
    assert "no floor without a network" in suspicious(verdict(rows, [], ALL).details)
