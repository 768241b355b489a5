"""What a comparison found, as one JSON file that outlives the code that wrote it.

The typed dictionaries below are the schema: ``check_results`` walks their annotations, so what
the type checker knows and what a file must hold cannot drift apart. A number that could not be
measured is ``null``, never NaN and never a guess. Units are SI; losses have the unit of the
objective that they belong to and are only ever compared with its own baseline.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

from saccade.errors import DataError
from saccade.report.records import check_record

SCHEMA = 2
RESULTS = "results.json"

Number = float | int | None
Count = int | None


class Machine(TypedDict):
    """Where the numbers were measured."""

    cpu: str
    cores: Count
    memory_gb: Number
    accelerator: str | None
    platform: str


class Part(TypedDict):
    """The size of one split."""

    episodes: int
    frames: int


class Data(TypedDict):
    """The data set that every model saw."""

    path: str
    fingerprint: str
    fps: float
    camera: str
    label_frame: Literal["camera", "world"]
    image_size: int
    tasks: list[str]
    held_out_tasks: list[str]
    held_out_scenes: NotRequired[list[str]]
    new_tasks: NotRequired[list[str]]  # of those scenes, and in no episode that was trained on
    parts: dict[str, Part]


class ProbeBudget(TypedDict):
    """What the probes were asked."""

    probes: list[str]
    gaps: list[int]
    readouts: list[str]
    stride: int
    most: int


class Budget(TypedDict):
    """What every model was given."""

    samples: int
    seeds: list[int]
    probe: ProbeBudget


class Evaluation(TypedDict):
    """The loss on the held-out list beside that of a trivial prediction."""

    loss: Number
    baseline: Number


class Point(TypedDict):
    """One line of a run's history; ``eval`` is null between evaluations."""

    step: int
    samples: int
    train: dict[str, Number]
    eval: Evaluation | None


class Alarm(TypedDict):
    """Something that training found suspicious."""

    name: str  # leak, copy, too good, collapse, dead gradients
    detail: str
    severity: Literal["warning", "error"]


class Features(TypedDict):
    """How alive pooled features are."""

    std: Number
    effective_rank: Number
    mean_cosine: Number
    norm: NotRequired[Number]
    dims: NotRequired[Count]


class Run(TypedDict):
    """One training seed. Picture paths are relative to the folder of the results."""

    seed: int
    folder: str
    history: list[Point]
    baseline_name: str
    alarms: list[Alarm]
    features: NotRequired[Features | None]
    pictures: NotRequired[dict[str, str]]


class Model(TypedDict):
    """One method: its cost and its runs."""

    name: str
    recipe: str
    encoder_parameters: Count
    trained_parameters: Count
    flops_per_sample: Number
    samples_per_second: Number
    peak_memory_mb: Number
    notes: list[str]
    runs: list[Run]
    image_size: NotRequired[Count]
    frames: NotRequired[Count]
    weights: NotRequired[str]  # where they came from; "random" where nothing was trained
    encoded_per_second: NotRequired[Number]  # clips, in this run; null where all were kept
    store_mb: NotRequired[Number]


class ProbeRow(TypedDict):
    """One score with its 95 % interval.

    ``reading`` is how an encoder is shown clips, empty for floors. ``condition`` is empty, or
    what was controlled, perturbed or taken away. ``labels`` is the share of the training
    episodes that the readout was fitted on. ``chance`` is what knowing nothing scores.
    ``tolerance`` is in metres, radians or gripper units.
    """

    representation: str
    reading: str
    kind: Literal["method", "floor"]
    floor_of: str | None
    seeds: list[int]
    probe: str
    target: str
    group: str
    frame: str
    readout: str
    gap: int
    split: str
    condition: str
    labels: Number
    metric: str
    better: Literal["higher", "lower"]
    value: Number
    low: Number
    high: Number
    chance: Number
    tolerance: Number
    episodes: int
    samples: int
    dims: Count
    penalty: Number


class Paired(TypedDict):
    """The difference of a score, ``a`` minus ``b``, on the same episodes.

    ``p`` is of a permutation test over episodes, ``p_holm`` corrected for all differences of
    this probe.
    """

    a: str
    b: str
    probe: str
    target: str
    group: str
    frame: str
    readout: str
    gap: int
    split: str
    metric: str
    better: Literal["higher", "lower"]
    difference: Number
    low: Number
    high: Number
    p: Number
    p_holm: Number


class Criterion(TypedDict):
    """A bar that was set before anything was measured, and whether it is met."""

    name: str
    bar: str
    result: Literal["pass", "fail", "undecided", "not asked"]
    detail: str
    episodes_needed: Count  # that would decide, where it is undecided


class Projection(TypedDict):
    """Features of one representation in two dimensions."""

    representation: str
    method: Literal["PCA", "t-SNE"]
    labels: list[str]
    label: list[int]  # of each point
    x: list[Number]
    y: list[Number]


class Confusion(TypedDict):
    """How often each true class (rows) was taken for which (columns)."""

    representation: str
    probe: str
    target: str
    split: str
    gap: int
    labels: list[str]
    counts: list[list[Number]]


class Diagnostic(TypedDict):
    """How alive the features of one representation are, on the test split."""

    representation: str
    features: Features


class Cell(TypedDict):
    """One setting of an ablation and its difference from the base."""

    axis: str
    value: str
    cell: str
    probe: str
    group: str
    gap: int
    split: str
    metric: str
    difference: Number
    low: Number
    high: Number
    p_holm: Number


class Verdict(TypedDict):
    """What may be said."""

    sentence: str
    success: bool
    details: list[str]


class Results(TypedDict):
    """The whole file."""

    schema: int
    title: str
    created: str
    commands: list[str]
    versions: dict[str, str]
    machine: Machine
    commit: str | None
    data: Data
    budget: Budget
    models: list[Model]
    probes: list[ProbeRow]
    paired: list[Paired]
    verdict: Verdict
    criteria: list[Criterion]
    seconds: dict[str, Number]
    projections: NotRequired[list[Projection]]
    confusions: NotRequired[list[Confusion]]
    diagnostics: NotRequired[list[Diagnostic]]
    flow_pictures: NotRequired[dict[str, str]]  # name -> PNG, relative to the results
    ablation: NotRequired[list[Cell]]


def load_results(folder: Path) -> Results:
    """Read and check ``results.json``.

    Raises:
        DataError: the file is missing, is not JSON, or is not of this schema.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise DataError(f"{folder} has no {RESULTS}; name the folder that `saccade compare` wrote")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); run `saccade compare` again") from error
    return check_results(value)


def check_results(value: object) -> Results:
    """Return the value, proven to be ``Results``.

    Raises:
        DataError: another schema version, or a field that is missing or of another kind.
    """
    found = value.get("schema") if isinstance(value, Mapping) else None
    if found != SCHEMA:
        raise DataError(
            f"{RESULTS}: schema is {found!r}, expected {SCHEMA}; "
            "use the version of saccade that wrote it, or compare again"
        )
    check_record(value, Results, RESULTS)
    return cast(Results, value)
