"""Which probes a data set can answer, and the asking: features first, then readouts.

    asked = askable(data, config)         labels; what cannot be asked is refused, or left out
    encode(groups, asked.prepared)        every clip once, on the accelerator where there is one;
                                          says early if it will take long
    ask(groups, asked.prepared, config)   fits and scores

A group is what reads the same features, such as both readings of one encoder.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch

from saccade.errors import DataError
from saccade.evals.features import EncoderReader
from saccade.evals.probe import Probed, Representation, prepare, probe
from saccade.evals.probes.base import Data, Prepared, ProbeConfig, ProbeName
from saccade.evals.probes.clusters import ClustersProbe
from saccade.experiments.parallel import default_jobs
from saccade.experiments.source import Report
from saccade.progress import duration, progress

VARIANTS: Mapping[ProbeName, tuple[ProbeName, ...]] = {"action": ("factors", "curves")}
ASKED_ALONE: tuple[ProbeName, ...] = ("action", "flow", "order", "clusters")

LEFT_OUT = "Left out"  # how sentences on what was not asked begin
PATIENCE, LONG = 10.0, 120.0  # seconds of encoding that tell the rate, that are worth a sentence

Group = Sequence[Representation]
T = TypeVar("T")
R = TypeVar("R")


class Askable(NamedTuple):
    """What will be asked, and sentences on what will not."""

    config: ProbeConfig
    prepared: Mapping[str, Prepared]
    left_out: tuple[str, ...]


def askable(data: Data, config: ProbeConfig, optional: Sequence[ProbeName] = ()) -> Askable:
    """Label the clips of all probes; leave out those of ``optional`` that the data cannot answer.

    Gaps that are longer than every episode of a part go with them.

    Raises:
        ConfigError: nothing is asked, or a gap is.
        DataError: the data cannot answer what is not optional, or parts share frames.
    """
    left_out: list[str] = []
    if optional:
        config, left_out = _reachable(data, config)
    try:
        prepared = prepare(data, config)
    except DataError as error:
        if not optional:
            raise
        config, prepared, told = _one_by_one(data, config, optional, error)
        left_out += told
    clusters = prepared.get("clusters")
    if isinstance(clusters, ClustersProbe):
        missing = {"task", "behaviour"} - {labels.target for labels in clusters.labels["test"]}
        why = "the test part has fewer than two of them, or a single episode"
        if len(missing) == 2 and "clusters" not in optional:
            raise DataError(f"clusters of tasks or behaviours cannot be asked about: {why}")
        if len(missing) == 2:
            prepared = {name: each for name, each in prepared.items() if name != "clusters"}
            config = replace(config, probes=tuple(p for p in config.probes if p != "clusters"))
        if missing:
            left_out.append(f"{LEFT_OUT} clusters by {' and '.join(sorted(missing))}: {why}.")
    if not prepared:
        raise DataError(f"the data can answer none of the probes: {' '.join(left_out)}")
    return Askable(config, prepared, tuple(left_out))


def _reachable(data: Data, config: ProbeConfig) -> tuple[ProbeConfig, list[str]]:
    """Drop the gaps that no episode of some part is longer than."""
    longest = {name: max(part.lengths, default=0) for name, part in data.parts.items()}
    shortest = min(longest, key=lambda name: longest[name])
    kept = tuple(gap for gap in config.gaps if gap < longest[shortest])
    dropped = [str(gap) for gap in config.gaps if gap not in kept]
    if not kept:
        return config, []  # the probes' own error tells it best
    told = (
        f"{LEFT_OUT} the gap{'s' * (len(dropped) > 1)} {', '.join(dropped)}: the longest episode "
        f"of the part {shortest!r} has {longest[shortest]} frames."
    )
    return replace(config, gaps=kept), [told] if dropped else []


def _one_by_one(
    data: Data, config: ProbeConfig, optional: Sequence[ProbeName], first: DataError
) -> tuple[ProbeConfig, dict[str, Prepared], list[str]]:
    """Prepare each probe for itself, and leave out those that fail and may."""
    prepared: dict[str, Prepared] = {}
    lost: set[str] = set()
    left_out: list[str] = []
    for name in ASKED_ALONE:
        mine: tuple[ProbeName, ...] = tuple(
            p for p in (name, *VARIANTS.get(name, ())) if p in config.probes
        )
        if not mine:
            continue
        asked = (*mine, "robustness") if "robustness" in config.probes else mine
        try:
            prepared |= prepare(data, replace(config, probes=asked))
        except DataError as error:
            if not set(mine) <= set(optional):
                raise
            lost |= set(mine)
            reason = str(error).partition(";")[0]  # what follows is how to mend a refusal
            left_out.append(f"{LEFT_OUT} {', '.join(mine)}: {reason}.")
    if not prepared:
        raise first
    return (
        replace(config, probes=tuple(p for p in config.probes if p not in lost)),
        prepared,
        left_out,
    )


def encode(
    groups: Sequence[Group], prepared: Mapping[str, Prepared], report: Report = lambda _: None
) -> None:
    """Compute the features that the probes will read and that are not kept yet."""
    requests = [request for each in prepared.values() for request in each.requests()]
    readers = [reader for group in groups for reader in _encoders(group)]
    waiting = [(reader, count) for reader in readers if (count := reader.missing(requests))]
    if not waiting:
        return
    total, began, warned = sum(count for _, count in waiting), time.monotonic(), threading.Event()
    with progress("encoding", total, "clips") as told:

        def one(item: tuple[EncoderReader, int], check: Callable[[], None]) -> None:
            def tick(_: str) -> None:
                check()
                done = sum(reader.encoded for reader, _ in waiting)
                told(done)
                spent = time.monotonic() - began
                left = spent * (total - done) / max(1, done)
                if spent > PATIENCE and left > LONG and not warned.is_set():
                    warned.set()
                    report(
                        f"encoding {total:,} clips takes about {duration(spent + left)}, and "
                        "again nothing: they are kept; a larger --probe.stride, a smaller "
                        "--probe.most or fewer --probe.gaps ask for fewer"
                    )

            reader, _ = item
            reader.report = tick
            with _on_accelerator(reader):
                reader.prepare(requests)

        told(0)
        _in_threads(one, waiting, default_jobs())


@contextmanager
def _on_accelerator(reader: EncoderReader) -> Iterator[None]:
    """Move a network to the accelerator while it works, and back: the next one needs the room."""
    reader.encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        yield
    finally:
        reader.encoder.to("cpu")


def _encoders(group: Group) -> list[EncoderReader]:
    """Return the readers of a group that encode, one of each encoder: readings share its clips."""
    found: dict[int, EncoderReader] = {}
    for representation in group:
        for reader in representation.readers.values():
            if isinstance(reader, EncoderReader):
                found.setdefault(id(reader.encoder), reader)
    return list(found.values())


def ask(
    groups: Sequence[Group], prepared: Mapping[str, Prepared], config: ProbeConfig
) -> list[Probed]:
    """Put the probes to every representation; readouts are fitted on the processor's cores."""
    readings = sum(max(1, len(each.readers)) for group in groups for each in group)
    count, begun = readings * len(prepared), itertools.count()  # a reader for each training seed
    with progress("asking", count, "questions") as told:

        def one(group: Group, check: Callable[[], None]) -> list[Probed]:
            def tick(_: str) -> None:
                check()
                told(next(begun))

            return [probe(each, prepared, config, tick) for each in group]

        found = _in_threads(one, groups, len(os.sched_getaffinity(0)))
        told(count)
    return [probed for each in found for probed in each]


def _in_threads(
    work: Callable[[T, Callable[[], None]], R], items: Sequence[T], jobs: int
) -> list[R]:
    """Work on several items at once; small networks gain little from a second core.

    ``work`` calls what it is given now and then, so that Ctrl-C or an error ends all threads.
    """
    over = threading.Event()
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)

    def check() -> None:
        if over.is_set():
            raise RuntimeError("another thread has ended the work")

    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        futures = [pool.submit(work, item, check) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        finally:
            over.set()
            for future in futures:
                future.cancel()
