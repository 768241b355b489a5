"""Evidence: encoders and floors through the same probes, into ``results.json`` and one page.

Methods, their own untrained networks, and floors that need no network are scored on the same
episodes. ``saccade compare``, ``saccade ablate`` and ``saccade probe`` differ only in where the
encoders come from.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.checkpoint import write_atomic
from saccade.data.files.index import cache_folder
from saccade.evals.criteria import criteria
from saccade.evals.features import EncoderReader, Reading, Views, floors, readings
from saccade.evals.probe import COPY, Representation, compare, label_frame, rows_of
from saccade.evals.probes.base import Data, ProbeConfig, ProbeName
from saccade.evals.verdict import verdict
from saccade.experiments import looks
from saccade.experiments.asking import ask, askable, encode
from saccade.experiments.source import Report, SourceConfig
from saccade.experiments.views import Opened, Sizes, Transfer, sizes_of_parts
from saccade.report.page import write_report
from saccade.report.results import RESULTS, SCHEMA
from saccade.types import Encoder

PACKAGES = (
    "saccade", "torch", "numpy", "transformers", "scikit-learn", "opencv-python-headless", "av",
    "pyarrow", "safetensors", "mujoco", "metaworld",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One method: its encoder and its untrained network, both by seed, and what it cost.

    ``weights`` says where they came from. A network with random weights is a floor: it has no
    trained encoders, only untrained ones.
    """

    name: str
    recipe: str
    trained: Mapping[int, Encoder]
    untrained: Mapping[int, Encoder]
    runs: Sequence[Mapping[str, Any]] = ()  # as the report's schema has them
    trained_parameters: int | None = None
    samples_per_second: float | None = None
    peak_memory_mb: float | None = None
    notes: Sequence[str] = ()
    weights: str = ""

    @property
    def encoder(self) -> Encoder:
        """One of them, for what all have in common."""
        return next(iter((self.trained or self.untrained).values()))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and what only the caller knows about it.

    Args:
        title: heading of the report.
        command: the command line that asks it again.
        source: the data set and its split.
        probe: what to ask.
        transfers: other data sets to report on.
        optional: probes to leave out, and to say so, where the data cannot answer them.
        samples: training samples of every run; 0 where nothing was trained.
        seeds: training seeds.
        references: methods that the others are compared with; empty compares all with all.
        seconds: how long the steps before this one took.
    """

    title: str
    command: str
    source: SourceConfig
    probe: ProbeConfig
    transfers: Sequence[Transfer] = ()
    optional: Sequence[ProbeName] = ()
    samples: int = 0
    seeds: int = 1
    references: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def measure(
    subjects: Sequence[Subject], question: Question, folder: Path, report: Report = lambda _: None
) -> dict[str, Any]:
    """Probe every subject and floor; return what ``write`` writes. Pictures go into the folder.

    Raises:
        ConfigError: nothing is asked, or something that cannot be.
        DataError: the data cannot answer, or parts share episodes or frames.
    """
    began, config = time.perf_counter(), question.probe
    sizes = Sizes(question.source, config, question.transfers, report=report)
    size = min(sizes.size_of(subject.encoder) for subject in subjects)
    data, opened = sizes.labels(size), sizes.at(size)
    config, prepared, left_out = askable(data, config, question.optional)
    left_out = (*sizes.left_out, *left_out)
    for told in left_out:
        report(told)
    groups = [*_groups(subjects, sizes, config), *_floors(opened.views, data, config)]
    encode(groups, prepared, report)
    asked = ask(groups, prepared, config)
    rows = [row for each in asked for row in rows_of(each, config)]
    paired = compare(asked, config, question.references)
    found = verdict(rows, paired, config)
    return {
        "schema": SCHEMA,
        "title": question.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [question.command],
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
        "data": data_record(question, opened, data, size, rows),
        "budget": {
            "samples": question.samples,
            "seeds": list(range(question.seeds)),
            "probe": probe_record(config),
        },
        "models": [model_record(subject, groups) for subject in subjects],
        "probes": rows,
        "paired": paired,
        "verdict": {
            "sentence": found.sentence,
            "success": found.success,
            "details": [*found.details, *left_out],
        },
        "criteria": criteria(rows, paired, asked, config),
        **looks.record(asked, prepared, data, config, folder),
        "seconds": {**question.seconds, "probe": time.perf_counter() - began},
    }


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``results.json``, tables and ``report.html``."""
    write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_report(results, folder)


def data_record(
    question: Question, opened: Opened, data: Data, size: int, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the results' entry of the data: as they were dealt, at the size of the labels."""
    episodes, (parts, views) = question.source.episodes, opened
    return {
        "path": str(getattr(episodes, "root", "") or type(episodes).__name__),
        "image_size": size,
        "fingerprint": parts.whole.fingerprint,
        "fps": parts.whole.fps,
        "camera": data.camera,
        "tasks": sorted(set(parts.train.tasks)),
        **parts.held_out(),
        "parts": sizes_of_parts(views),
        "label_frame": label_frame({row["frame"] for row in rows}),
    }


def probe_record(config: ProbeConfig) -> dict[str, Any]:
    """Return the results' entry of what was asked."""
    return {
        "probes": list(config.probes),
        "gaps": list(config.gaps),
        "readouts": list(config.readouts),
        "stride": config.stride,
        "most": config.most,
    }


def _groups(
    subjects: Sequence[Subject], sizes: Sizes, config: ProbeConfig
) -> Iterator[list[Representation]]:
    """Yield the representations of each subject: trained, then untrained, in every reading."""
    for trained in (True, False):
        for subject in subjects:
            if subject.trained if trained else subject.untrained:
                yield [
                    read_from(subject, trained, reading, sizes, config)
                    for reading in readings(subject.encoder)
                ]


def read_from(
    subject: Subject,
    trained: bool,
    reading: Reading,
    sizes: Sizes,
    config: ProbeConfig,
) -> Representation:
    """Return a subject's encoders, read in one way, as what the probes are put to."""
    opened = sizes.of(subject.encoder)
    name = subject.name
    if len(readings(subject.encoder)) > 1:
        name += f" ({reading})"
    encoders, own = subject.trained if trained else subject.untrained, bool(subject.trained)
    store = cache_folder(sizes.source.cache) / "clips"
    return Representation(
        name=name if trained else f"{name}, random {'init' if own else 'weights'}",
        kind="method" if trained else "floor",
        readers={
            seed: EncoderReader(
                encoder,
                reading,
                opened.views,
                opened.parts.camera,
                store,
                grid=config.cells,
                precision=config.precision,
            )
            for seed, encoder in encoders.items()
        },
        floor_of=name if own and not trained else None,
        reading=reading,
    )


def _floors(views: Views, data: Data, config: ProbeConfig) -> list[list[Representation]]:
    """Return the floors that need no network, and that of no motion."""
    return [
        [Representation(name=name, kind="floor", readers={0: reader})]
        for name, reader in floors(views, data.camera, config.cells).items()
    ] + [[COPY]]


def model_record(subject: Subject, groups: Sequence[Sequence[Representation]]) -> dict[str, Any]:
    """Return a model's entry of the results, with what its features cost."""
    encoder = subject.encoder
    own = {id(each) for each in (subject.trained or subject.untrained).values()}
    readers = [
        reader
        for group in groups
        for each in group
        for reader in each.readers.values()
        if isinstance(reader, EncoderReader) and id(reader.encoder) in own
    ]
    encoded, seconds = (sum(getattr(r, name) for r in readers) for name in ("encoded", "seconds"))
    return {
        "image_size": encoder.preprocessing.image_size,
        "frames": encoder.preprocessing.num_frames,
        "weights": subject.weights,
        "encoded_per_second": encoded / seconds if seconds else None,
        "store_mb": max((reader.size_on_disk for reader in readers), default=0) / 1e6,
        "name": subject.name,
        "recipe": subject.recipe,
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "trained_parameters": subject.trained_parameters,
        "flops_per_sample": flops(encoder),
        "samples_per_second": subject.samples_per_second,
        "peak_memory_mb": subject.peak_memory_mb,
        "notes": list(subject.notes),
        "runs": [dict(run) for run in subject.runs],
    }


@torch.no_grad()
def flops(encoder: Encoder) -> float:
    """Count the floating-point operations of encoding one sample (a multiply-add is two)."""
    shape = encoder.preprocessing
    size = (1, shape.num_frames, 3, shape.image_size, shape.image_size)
    device = next(encoder.parameters()).device
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(size, dtype=torch.uint8, device=device))
    return float(counter.get_total_flops())


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return where this runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """Return the commit of the source tree that this code lies in, if it lies in one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() or None
