"""Is a state encoder ready for a policy? A verdict on a phase-1 run from its own numbers.

The documents say "the error converges and the variance settles near 0". That alone is also true
of an encoder that copies, or that never looks at the action; so five things are asked, of the
mean over the last fifth of the held-out scores (and the fifth before it):

    converged    the error moved by at most a tenth between the two fifths
    variance     deviations fall short of 1 by at most 0.3 on average, and moved by at most 0.05
    rank         states vary in at least two directions (effective rank; 1 is a line)
    copying      the error is below that of predicting that nothing changes
    actions      the error with others' actions is at least a twentieth higher
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

NAMES = ("jepa_mse", "variance", "effective_rank", "copy_mse", "shuffled_mse")


class Verdict(TypedDict):
    """What a run came to; ``reasons`` is what stands against it."""

    ready: bool
    reasons: list[str]
    numbers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Phase1Rule:
    """What is asked of a run.

    Args:
        evaluations: held-out scores below which nothing is said of convergence.
        last: share of them that counts as the end.
        moved: largest relative change of the error at the end.
        variance: largest shortfall of deviations.
        variance_moved: largest change of it at the end.
        rank: least effective rank of the states of a held-out batch.
        sensitivity: least ratio of the error with others' actions to that with the right ones.
    """

    evaluations: int = 6
    last: float = 0.2
    moved: float = 0.1
    variance: float = 0.3
    variance_moved: float = 0.05
    rank: float = 2.0
    sensitivity: float = 1.05


def phase_1_verdict(
    rows: Sequence[Mapping[str, int | float]], rule: Phase1Rule | None = None
) -> Verdict:
    """Judge a run by the rows of its ``metrics.jsonl``; those without held-out scores are skipped.

    Step 0, before any training, is not counted.
    """
    rule = rule or Phase1Rule()
    scores = [row for row in rows if "eval/jepa_mse" in row and row.get("step", 1)]
    missing = sorted({name for row in scores for name in NAMES if f"eval/{name}" not in row})
    if len(scores) < rule.evaluations:
        told = (
            f"{len(scores)} held-out scores are too few to say whether it converged (at least "
            f"{rule.evaluations}): train longer, or lower eval_every"
        )
        return Verdict(ready=False, reasons=[told], numbers={})
    if missing:
        told = f"the held-out scores lack {', '.join(missing)}: they are not of a phase-1 run"
        return Verdict(ready=False, reasons=[told], numbers={})
    count = max(2, round(rule.last * len(scores)))
    end, before = scores[-count:], scores[-2 * count : -count]
    now = {name: _mean(end, name) for name in NAMES}
    then = {name: _mean(before, name) for name in NAMES}
    numbers = now | {
        "moved": abs(now["jepa_mse"] / max(then["jepa_mse"], 1e-12) - 1),
        "variance_moved": abs(now["variance"] - then["variance"]),
        "copy_ratio": now["jepa_mse"] / max(now["copy_mse"], 1e-12),
        "sensitivity": now["shuffled_mse"] / max(now["jepa_mse"], 1e-12),
    }
    reasons = _reasons(numbers, rule)
    return Verdict(ready=not reasons, reasons=reasons, numbers=numbers)


def _mean(rows: Sequence[Mapping[str, int | float]], name: str) -> float:
    return sum(row[f"eval/{name}"] for row in rows) / len(rows)


def _reasons(n: Mapping[str, float], rule: Phase1Rule) -> list[str]:
    """Say what is not as it is asked, each with what to do. A number that is NaN passes nothing."""
    found = []
    if not n["moved"] <= rule.moved:
        found.append(
            f"the held-out error still moves, by {n['moved']:.0%} at the end (at most "
            f"{rule.moved:.0%}): train longer"
        )
    if not (n["variance"] <= rule.variance and n["variance_moved"] <= rule.variance_moved):
        found.append(
            f"deviations fall {n['variance']:.2f} short of 1 (at most {rule.variance:g}) and moved "
            f"by {n['variance_moved']:.2f} at the end (at most {rule.variance_moved:g}): raise "
            "variance_weight, or add state to vicreg_on"
        )
    if not n["effective_rank"] >= rule.rank:
        found.append(
            f"states vary in {n['effective_rank']:.1f} directions (at least {rule.rank:g}): raise "
            "covariance_weight or batch_size"
        )
    if not n["copy_ratio"] < 1:
        found.append(
            f"the error is {n['copy_ratio']:.2f} of that of predicting no change (below 1): train "
            "longer, lower lr, or add state to vicreg_on"
        )
    if not n["sensitivity"] >= rule.sensitivity:
        found.append(
            f"others' actions raise the error to {n['sensitivity']:.2f} of itself only (at least "
            f"{rule.sensitivity:g}): the encoder has not learned what actions do; train longer, or "
            "take a larger gap between moments"
        )
    return found
