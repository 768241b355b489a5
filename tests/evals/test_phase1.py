import math
import re

import pytest

from saccade.evals.phase1 import Phase1Rule, phase_1_verdict

GOOD = {
    "eval/jepa_mse": 0.10,
    "eval/variance": 0.05,
    "eval/effective_rank": 6.0,
    "eval/copy_mse": 0.20,
    "eval/shuffled_mse": 0.15,
}


def history(
    changes: dict[str, float] | None = None, count: int = 10
) -> list[dict[str, int | float]]:
    """Rows of a run that learned early, some without held-out scores; ``changes`` are its end's."""
    rows: list[dict[str, int | float]] = [{"step": 0, **dict.fromkeys(GOOD, 9.0)}]
    end = {f"eval/{name}": value for name, value in (changes or {}).items()}
    for step in range(1, count + 1):
        early = 5.0 if step <= count // 2 else 1.0
        rows.append({"step": 10 * step - 5, "train/loss": 1.0})
        rows.append({"step": 10 * step, **GOOD, "eval/jepa_mse": early * GOOD["eval/jepa_mse"]})
        if step > count // 2:
            rows[-1] |= end
    return rows


def test_a_run_that_is_ready() -> None:
    verdict = phase_1_verdict(history())
    assert verdict["ready"]
    assert not verdict["reasons"]
    numbers = verdict["numbers"]
    assert numbers["copy_ratio"] == pytest.approx(0.5)
    assert numbers["sensitivity"] == pytest.approx(1.5)
    assert numbers["moved"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variance": 0.6}, "deviations fall 0.60 short"),
        ({"effective_rank": 1.2}, r"in 1\.2 directions \(at least 2\)"),
        ({"copy_mse": 0.1}, "1.00 of that of predicting no change"),
        ({"shuffled_mse": 0.101}, "others' actions"),
        ({"shuffled_mse": math.nan}, "others' actions"),
    ],
)
def test_what_stands_against_one(changes: dict[str, float], told: str) -> None:
    verdict = phase_1_verdict(history(changes))
    assert not verdict["ready"]
    (reason,) = verdict["reasons"]
    assert re.search(told, reason)


def test_convergence_is_of_the_end() -> None:
    rows = history()
    rows[-1]["eval/jepa_mse"] *= 0.7  # the last fifth falls by 15 %
    verdict = phase_1_verdict(rows)
    assert verdict["numbers"]["moved"] == pytest.approx(0.15)
    assert not verdict["ready"]
    assert "still moves, by 15%" in verdict["reasons"][0]
    assert phase_1_verdict(rows, Phase1Rule(moved=0.2))["ready"]
    rows = history()
    rows[-1]["eval/variance"] += 0.2
    assert "moved by 0.10 at the end" in phase_1_verdict(rows)["reasons"][0]


def test_too_little_to_say() -> None:
    told = phase_1_verdict(history(count=5))
    assert told["reasons"] == [
        "5 held-out scores are too few to say whether it converged (at least 6): train longer, or "
        "lower eval_every"
    ]
    assert not phase_1_verdict([])["ready"]
    rows = [{k: v for k, v in row.items() if k != "eval/shuffled_mse"} for row in history()]
    assert "lack shuffled_mse" in phase_1_verdict(rows)["reasons"][0]
