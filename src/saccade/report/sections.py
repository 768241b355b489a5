"""What the page draws for each probe that was asked, and in which words."""

from collections.abc import Callable, Mapping, Sequence
from math import log10
from typing import NamedTuple

from markupsafe import Markup

from saccade.report.evidence_figures import CUT, Place, bars, forest, lines
from saccade.report.figures import Look, name_of
from saccade.report.headline import Focus, focus_of, is_plain, nearest, rank
from saccade.report.results import ProbeRow, Results
from saccade.report.summary import SPLITS
from saccade.report.text import metric_of, number, upper

ABOUT = {
    "action": (
        "Action",
        "How much of the motion between the two frames a readout recovers from frozen features. "
        "The parts of the target are never averaged: an easy one would hide a hard one.",
    ),
    "flow": (
        "Optical flow",
        "How far the flow that is read from each patch lies from the truth, in percent of the "
        "picture's side: less is better.",
    ),
    "order": (
        "Temporal order",
        "How often the true order of a clip's frames is told from false ones. Who knows nothing "
        "scores at chance, which the line marks.",
    ),
    "clusters": (
        "Behaviour clusters",
        "How many of a clip's nearest neighbours, all from other episodes, share its label. The "
        "line marks what shuffled labels would score.",
    ),
}
PERTURBATIONS: dict[str, Callable[[float], float]] = {  # how severe a level is
    "noise": lambda level: level,
    "JPEG": lambda level: -level,
    "lighting": lambda level: abs(level - 1),
    "camera shift": lambda level: level,
}


class Panels(NamedTuple):
    """Figures of one kind, side by side."""

    title: str
    about: str
    figures: list[Markup]


class Section(NamedTuple):
    """All that is drawn of one probe."""

    probe: str
    title: str
    about: str
    forests: list[Markup]
    panels: list[Panels]


def sections(results: Results, look: Mapping[str, Look]) -> list[Section]:
    """Draw every probe that was asked."""
    probes = dict.fromkeys(row["probe"] for row in results["probes"] if is_plain(row))
    order = [*(p for p in ABOUT if p in probes), *(p for p in probes if p not in ABOUT)]
    return [_section(results, look, probe) for probe in order]


def _section(results: Results, look: Mapping[str, Look], probe: str) -> Section:
    focus = focus_of(results, probe=probe)
    assert focus is not None  # the probe has plain rows
    rows = [row for row in results["probes"] if row["probe"] == probe]
    others = [
        found
        for target in dict.fromkeys(row["target"] for row in rows if is_plain(row))
        if target != focus.target and (found := focus_of(results, probe=probe, target=target))
    ]
    asked = [focus, *others]
    forests = [forest(f.answers(rows), look, label(f, number_of_gaps(rows))) for f in asked]
    title, about = ABOUT.get(probe, (upper(probe), ""))
    panels = [
        _over_gaps(rows, asked, look, float(results["data"]["fps"])),
        _parts(rows, asked, look),
        _readouts(rows, focus, look),
        _learning(rows, focus, look),
        _controls(rows, focus, look),
        _robustness(rows, focus, look),
    ]
    return Section(probe, title, about, forests, [found for found in panels if found.figures])


def number_of_gaps(rows: Sequence[ProbeRow]) -> int:
    """Count the gaps that were asked."""
    return len({row["gap"] for row in rows})


def label(focus: Focus, gaps: int = 2) -> str:
    """Name a question in the words of an axis."""
    of = f"{focus.target}, {focus.group}" if focus.group else focus.target
    parts = [f"{metric_of(focus.metric)}: {of}", f"gap {focus.gap}" if gaps > 1 else ""]
    parts += [focus.readout, SPLITS.get(focus.split, focus.split)]
    return ", ".join(part for part in parts if part)


def _titled(focus: Focus, split: str | None = None) -> str:
    name = upper(focus.group or focus.target)
    if focus.group and focus.target != "displacement":
        name += f" of {focus.target}"
    return name if split is None else f"{name}, {SPLITS.get(split, split)}"


def _over_gaps(
    rows: Sequence[ProbeRow], asked: Sequence[Focus], look: Mapping[str, Look], fps: float
) -> Panels:
    figures = []
    for focus in asked:
        splits = list(dict.fromkeys(row["split"] for row in focus.answers(rows, split=None)))
        wanted = [(group, focus.split) for group in focus.groups(rows)]
        wanted[1:1] = [(focus.group, split) for split in splits if split != focus.split]
        for group, split in wanted:
            found = focus.answers(rows, group=group, split=split, gap=None)
            if number_of_gaps(found) > 1:
                title = _titled(focus._replace(group=group), split)
                figures.append(lines(found, look, title, lambda row: _gap(row, fps), "gap"))
    about = "The score as the two frames move apart. Dashed: floors."
    return Panels("Near and far in time", about, figures)


def _gap(row: ProbeRow, fps: float) -> Place:
    return Place(row["gap"], f"{row['gap']}\n{row['gap'] / fps:.2g} s")


def _parts(rows: Sequence[ProbeRow], asked: Sequence[Focus], look: Mapping[str, Look]) -> Panels:
    figures, several = [], False
    for focus in asked:
        for group in focus.groups(rows):
            found = focus.answers(rows, group=group, split=None)
            splits = dict.fromkeys(row["split"] for row in found)
            series = {split: SPLITS.get(split, split) for split in _first(splits, focus.split)}
            several = several or len(series) > 1
            if len(series) > 1 or len(focus.groups(rows)) > 1:
                title = _titled(focus._replace(group=group))
                figures.append(
                    bars(_ordered(found, focus.split, "split"), look, title, series, _split)
                )
    title = "Seen and unseen" if several else "Each part of the target"
    about = "Strong bars: seen tasks; paler ones: what training never saw." if several else ""
    if any(focus.metric == "r2" for focus in asked):
        about += f" Scores below {number(CUT, 1)} are cut in figures, never in tables."
    return Panels(title, about.strip(), figures)


def _split(row: ProbeRow) -> str:
    return row["split"]


def _readouts(rows: Sequence[ProbeRow], focus: Focus, look: Mapping[str, Look]) -> Panels:
    found = focus.answers(rows, readout=None)
    series = {name: name for name in _first({row["readout"]: None for row in found}, focus.readout)}
    figures = []
    if len(series) > 1:
        found = _ordered(found, focus.readout, "readout")
        title = f"{_titled(focus)} by readout"
        figures.append(bars(found, look, title, series, lambda row: row["readout"]))
    about = "What a stronger readout finds beyond a linear one lies in the features less openly."
    return Panels("Readouts", about, figures)


def _learning(rows: Sequence[ProbeRow], focus: Focus, look: Mapping[str, Look]) -> Panels:
    found = related(rows, focus, lambda row: row["condition"] == "" and row["labels"] is not None)
    figures = []
    if len({row["labels"] for row in found}) > 1:
        title = f"{_titled(focus)}, gap {found[0]['gap']}"
        figures.append(lines(found, look, title, _share, "share of the training episodes"))
    about = "The score of a readout that is fitted on fewer labelled episodes. Dashed: floors."
    return Panels("Few labels", about, figures)


def _share(row: ProbeRow) -> Place:
    share = float(row["labels"] or 1.0)
    return Place(log10(share), f"{number(100 * share, 0)} %")


def _controls(rows: Sequence[ProbeRow], focus: Focus, look: Mapping[str, Look]) -> Panels:
    controlled = related(rows, focus, lambda row: row["condition"] != "" and _kind(row) is None)
    figures = []
    if controlled:
        found = _with_clean(rows, focus, controlled)
        names = dict.fromkeys(row["condition"] for row in found)
        series = {name: name or "nothing controlled" for name in _first(names, "")}
        title = f"{_titled(focus)}, controlled"
        found = _ordered(found, "", "condition")
        figures.append(bars(found, look, title, series, lambda row: row["condition"]))
    about = "How much of the score survives when what could stand in for the answer is taken away."
    return Panels("What remains", about, figures)


def _robustness(rows: Sequence[ProbeRow], focus: Focus, look: Mapping[str, Look]) -> Panels:
    perturbed = related(rows, focus, lambda row: _kind(row) is not None)
    figures = []
    for kind in PERTURBATIONS:
        mine = [row for row in perturbed if _kind(row) == kind]
        if mine:
            levels = sorted({_level(row) for row in mine}, key=PERTURBATIONS[kind])
            places = {"": Place(0, "clean")}
            places |= {f"{kind} {x:g}": Place(i, f"{x:g}") for i, x in enumerate(levels, 1)}

            def place(row: ProbeRow, kind: str = kind, places: dict[str, Place] = places) -> Place:
                return places[f"{kind} {_level(row):g}" if row["condition"] else ""]

            found = sorted(_with_clean(rows, focus, mine), key=rank)
            figures.append(lines(found, look, f"{_titled(focus)}, {kind}", place, kind))
    about = "The readout is fitted on clean pictures and asked about spoilt ones."
    return Panels("Robustness", about, figures)


def _kind(row: ProbeRow) -> str | None:
    """Return how pictures were perturbed; None where they were not."""
    for kind in PERTURBATIONS:
        level = row["condition"].removeprefix(f"{kind} ")
        if level != row["condition"] and _is_number(level):
            return kind
    return None


def _level(row: ProbeRow) -> float:
    return float(row["condition"].rpartition(" ")[2])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def related(
    rows: Sequence[ProbeRow], focus: Focus, wanted: Callable[[ProbeRow], bool]
) -> list[ProbeRow]:
    """Select wanted rows of the question; at the nearest gap and readout where not at its own."""
    found = [r for r in focus.answers(rows, every=True, gap=None, readout=None) if wanted(r)]
    marked = [row for row in found if not is_plain(row)]
    if not marked:
        return []
    gap = nearest({row["gap"] for row in marked}, focus.gap)
    readouts = [row["readout"] for row in marked if row["gap"] == gap]
    readout = focus.readout if focus.readout in readouts else readouts[0]
    return [row for row in found if (row["gap"], row["readout"]) == (gap, readout)]


def _with_clean(
    rows: Sequence[ProbeRow], focus: Focus, found: Sequence[ProbeRow]
) -> list[ProbeRow]:
    """Put the plain rows of the same representations before others."""
    names = {name_of(row) for row in found}
    clean = focus.answers(rows, gap=found[0]["gap"], readout=found[0]["readout"])
    return [*(row for row in clean if name_of(row) in names), *found]


def _ordered(rows: Sequence[ProbeRow], first: str, field: str) -> list[ProbeRow]:
    """Sort representations by their score in the first series."""
    best = {name_of(row): rank(row) for row in rows if row[field] == first}
    return sorted(rows, key=lambda row: (best.get(name_of(row), (True, 0.0)), name_of(row)))


def _first(values: Mapping[str, None], wish: str) -> list[str]:
    """List values, the wish in front where it is among them."""
    return sorted(values, key=lambda value: value != wish)
