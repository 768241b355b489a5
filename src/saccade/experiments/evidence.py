"""Evidence: encoders and floors through the same probe, into ``results.json`` and one page.

Methods, their own untrained networks, and floors that need no network are scored on the same
episodes. ``saccade compare`` and ``saccade probe`` differ only in where the encoders come from.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.checkpoint import write_atomic
from saccade.evals.features import EncoderFeatures
from saccade.evals.probe import (
    ProbeConfig,
    Probed,
    Representation,
    baselines,
    compare,
    label_frame,
    probe,
)
from saccade.evals.verdict import verdict
from saccade.experiments.parallel import default_jobs
from saccade.experiments.source import Parts, Report, SourceConfig
from saccade.report.page import write_report
from saccade.report.results import RESULTS, SCHEMA
from saccade.types import Encoder

PACKAGES = ("saccade", "torch", "numpy", "av", "pyarrow", "safetensors", "mujoco", "metaworld")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One method: its encoder and its untrained network, both by seed, and what it cost."""

    name: str
    recipe: str
    trained: Mapping[int, Encoder]
    untrained: Mapping[int, Encoder]
    runs: Sequence[Mapping[str, Any]] = ()  # as the report's schema has them
    trained_parameters: int | None = None
    samples_per_second: float | None = None
    peak_memory_mb: float | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and what only the caller knows about it.

    Args:
        title: heading of the report.
        command: the command line that asks it again.
        source: the data set and its split.
        size: frame size, in pixels.
        probe: gaps, readouts and targets.
        samples: training samples of every run; 0 where nothing was trained.
        seeds: training seeds.
        seconds: how long the steps before this one took.
    """

    title: str
    command: str
    source: SourceConfig
    size: int
    probe: ProbeConfig
    samples: int = 0
    seeds: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)


def measure(
    subjects: Sequence[Subject], question: Question, folder: Path, report: Report = lambda _: None
) -> dict[str, Any]:
    """Probe every subject and floor; write ``results.json`` and ``report.html``."""
    began = time.perf_counter()
    parts = question.source.open(question.size, report)
    rows, paired = score(subjects, parts, question.probe, folder / "features", report)
    found = verdict(rows, paired, headline_gap(question.probe))
    results = {
        "schema": SCHEMA,
        "title": question.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [question.command],
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
        "data": describe(parts, question) | {"label_frame": label_frame(rows)},
        "budget": {
            "samples": question.samples,
            "seeds": list(range(question.seeds)),
            "probe": {
                "gaps": list(question.probe.gaps),
                "readouts": list(question.probe.readouts),
                "stride": question.probe.stride,
            },
        },
        "models": [model_record(subject) for subject in subjects],
        "probes": rows,
        "paired": paired,
        "verdict": {
            "sentence": found.sentence,
            "success": found.success,
            "details": found.details,
        },
        "seconds": {**question.seconds, "probe": time.perf_counter() - began},
    }
    write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_report(results, folder)
    return results


def score(
    subjects: Sequence[Subject], parts: Parts, config: ProbeConfig, cache: Path, report: Report
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of every subject and floor, and the paired differences between them."""
    representations = [
        *(read_from(subject, parts.camera, cache, trained=True) for subject in subjects),
        *(read_from(subject, parts.camera, cache, trained=False) for subject in subjects),
        *baselines(parts.train, parts.camera),
    ]

    def ask(representation: Representation) -> Probed:
        report(f"probing {representation.name}")
        return probe(representation, parts.named(), parts.camera, config)

    # One thread per representation: small networks gain little from a second one.
    with ThreadPoolExecutor(
        default_jobs(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        probed = list(pool.map(ask, representations))
    return [row for each in probed for row in each.rows], compare(probed, config)


def headline_gap(config: ProbeConfig) -> int:
    """Return the gap that the verdict speaks of: 5 steps, or the first one asked for."""
    return 5 if 5 in config.gaps else config.gaps[0]


def read_from(subject: Subject, camera: str, folder: Path, *, trained: bool) -> Representation:
    """Return a subject's encoders as what the probe reads from."""
    encoders = subject.trained if trained else subject.untrained
    return Representation(
        name=subject.name if trained else f"{subject.name}, random init",
        kind="method" if trained else "floor",
        runs={seed: EncoderFeatures(encoder, camera, folder) for seed, encoder in encoders.items()},
        floor_of=None if trained else subject.name,
    )


def describe(parts: Parts, question: Question) -> dict[str, Any]:
    """Return the data set's entry of the results."""
    sizes = {
        name: {"episodes": len(part.lengths), "frames": sum(part.lengths)}
        for name, part in parts.named().items()
    }
    held_out = [] if parts.unseen is None else sorted(set(parts.unseen.tasks))
    episodes = question.source.episodes
    return {
        "path": str(getattr(episodes, "root", type(episodes).__name__)),
        "image_size": question.size,
        "fingerprint": parts.whole.fingerprint,
        "fps": parts.whole.fps,
        "camera": parts.camera,
        "tasks": sorted(set(parts.train.tasks)),
        "held_out_tasks": held_out,
        "parts": sizes,
    }


def model_record(subject: Subject) -> dict[str, Any]:
    """Return a model's entry of the results."""
    encoder = next(iter(subject.trained.values()))
    return {
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
