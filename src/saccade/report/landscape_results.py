"""What a landscape study found, as JSON: the fields that its page reads.

Distances are in metres, ranks and shares in [0, 1], energies in the unit of the features. What is
not listed here is passed on as it is: versions, settings, and the landscapes themselves, which
``Landscape.from_json`` proves. A value that could not be measured is ``null``.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

from saccade.errors import DataError
from saccade.report.records import check_record
from saccade.report.results import RESULTS, Alarm, Count, Machine, Number, Verdict

KIND, FORMAT = "landscape", 1


class Estimate(TypedDict):
    """A mean with its 95 % interval over episodes."""

    value: Number
    low: Number
    high: Number
    moments: int


class Counts(TypedDict):
    """How much a part of the moments is."""

    episodes: int
    moments: int


class Section(Counts):
    """Scores of a part of the moments; see ``evals/landscape_scores.py`` for their names."""

    scores: dict[str, Estimate]
    better_by: dict[str, Estimate]


class Size(TypedDict):
    """A grid of actions."""

    names: list[str]
    half_width: list[Number]
    steps: list[int]
    others: Literal["zero", "truth"]


class Resolution(TypedDict):
    """How finely a grid can tell positions apart."""

    spacing: dict[str, Number]
    worst_within: Number


class Summary(Counts):
    """One model on one grid."""

    metric: str
    horizon: int
    grid: Size
    resolution: Resolution
    all: Section
    in_range: Counts
    out_of_range: Counts


class Reversed(Summary):
    """With time reversed; ``turned`` is above 0 where the landscape turns round."""

    turned: Estimate


class Foreign(Summary):
    """With goals of other episodes; ``worse_by`` is above 0 where the own goal is better."""

    worse_by: Estimate


class Controls(TypedDict):
    """Null where a control was left out; ``skipped`` says why."""

    reversed: Reversed | None
    other_goals: Foreign | None


class Wide(TypedDict):
    """The main grid with its half-widths multiplied."""

    factor: Number
    summary: Summary


class Change(Estimate):
    """A score of adapters minus the base's, on the same moments."""

    base: Number
    other: Number
    d: Number
    wins: Number


class Paired(Counts):
    """All changes of one set of adapters."""

    scores: dict[str, Change]


class Entry(TypedDict):
    """One model: the base (``paired`` is null), or adapters in it."""

    name: str
    step: Count
    summary: Summary
    widened: list[Wide]
    slices: list[Summary]
    sweeps: list[Summary]
    controls: Controls
    paired: Paired | None
    changed: bool | None


class Base(TypedDict):
    """What the numbers depend on."""

    path: str
    digest: str
    encoder: str
    encoder_parameters: int
    predictor_parameters: int
    step_seconds: float
    crop: str
    gripper: str
    state_names: list[str]
    action_names: list[str]
    device: str
    precision: str


class Adapters(TypedDict):
    """One set of adapters."""

    name: str
    path: str
    digest: str


class Data(TypedDict):
    """Where the moments come from."""

    path: str
    fingerprint: str
    camera: str
    crop: str
    fps: float
    step_seconds: float
    part: str
    split_seed: int
    context: int
    horizon: int
    episodes: int
    moments: int


class Warned(Alarm):
    """An alarm of one model, or of ``all``."""

    model: str


class LandscapeResults(TypedDict):
    """The whole file."""

    kind: Literal["landscape"]
    format: int
    title: str
    created: str
    commands: list[str]
    versions: dict[str, str]
    machine: Machine
    commit: str | None
    model: Base
    adapters: list[Adapters]
    data: Data
    models: list[Entry]
    alarms: list[Warned]
    verdict: Verdict
    skipped: list[str]
    pictures: list[dict[str, str]]
    seconds: dict[str, Number]


def check_landscape_results(value: object) -> Mapping[str, Any]:
    """Return the value, proven to have the fields above.

    Raises:
        DataError: another kind or format, or a field that is missing or of another type.
    """
    found = value if isinstance(value, Mapping) else {}
    if (found.get("kind"), found.get("format")) != (KIND, FORMAT):
        raise DataError(
            f"{RESULTS}: kind and format are {found.get('kind')!r} and {found.get('format')!r}, "
            f"expected {KIND!r} and {FORMAT}; use the version of saccade that wrote it, or run "
            "`saccade energy` again"
        )
    check_record(value, LandscapeResults, RESULTS)
    if not found["models"] or not found["pictures"]:
        raise DataError(f"{RESULTS}: models or pictures are empty; run `saccade energy` again")
    return cast(Mapping[str, Any], value)
