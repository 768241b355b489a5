"""Scores with their uncertainty: what the numbers of an evaluation allow one to say.

sums        what each episode adds to a score, and the scores of such sums
resampling  intervals, differences, ratios and permutation tests over episodes
decisions   intervals of shares, exact tests, several tests at once, the sample that decides
"""

from saccade.evals.statistics.decisions import (
    Decision,
    Power,
    clustered_wilson,
    decide,
    disjoint,
    episodes_needed,
    holm,
    mcnemar,
    minimum_detectable,
    newcombe,
    standard_error,
    student,
    trials_needed,
    visible,
    wilson,
)
from saccade.evals.statistics.resampling import (
    Difference,
    bootstrap,
    estimate,
    paired_difference,
    paired_permutation,
    paired_ratio,
)
from saccade.evals.statistics.sums import (
    Estimate,
    Statistic,
    Table,
    accuracy,
    accuracy_sums,
    contingency_sums,
    cosine,
    episode_sums,
    error_sums,
    mean_error,
    nmi,
    r2,
    within,
)

__all__ = [
    "Decision",
    "Difference",
    "Estimate",
    "Power",
    "Statistic",
    "Table",
    "accuracy",
    "accuracy_sums",
    "bootstrap",
    "clustered_wilson",
    "contingency_sums",
    "cosine",
    "decide",
    "disjoint",
    "episode_sums",
    "episodes_needed",
    "error_sums",
    "estimate",
    "holm",
    "mcnemar",
    "mean_error",
    "minimum_detectable",
    "newcombe",
    "nmi",
    "paired_difference",
    "paired_permutation",
    "paired_ratio",
    "r2",
    "standard_error",
    "student",
    "trials_needed",
    "visible",
    "wilson",
    "within",
]
