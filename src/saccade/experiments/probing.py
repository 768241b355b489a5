"""Frozen encoders, ours and published ones, through the probes, without training anything."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from saccade.checkpoint import CONFIG
from saccade.config import from_dict
from saccade.data.files.index import cache_folder
from saccade.data.formats import configure
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.features import EncoderReader, readings
from saccade.evals.probe import ALL
from saccade.evals.probes.base import ProbeConfig, ProbeName
from saccade.experiments.asking import askable
from saccade.experiments.evidence import Question, Subject, measure, write
from saccade.experiments.source import Report, SourceConfig
from saccade.experiments.views import Sizes, Transfer, told_parts
from saccade.models.published.catalogue import ENTRIES, named
from saccade.models.published.vision import PublishedVisionConfig
from saccade.types import Encoder

EXPORTED = "encoder"  # what a run calls the encoder that it exports
RANDOM = "random"  # in place of weights


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What do these encoders know of behaviour?

    Args:
        encoders: folders that runs have exported, runs themselves, folders of the hub, or names
            like ``dinov2-base``; ``NAME=PATH`` takes a name's weights from a folder or file, and
            ``NAME=random`` its architecture with random weights, as a floor.
        source: the data set; it must not be what the encoders' test episodes were trained on.
        probe: what to ask.
        transfers: other data sets to report on.
        optional: probes to leave out, and to say so, where the data cannot answer them.
    """

    encoders: tuple[str, ...]
    source: SourceConfig
    probe: ProbeConfig
    transfers: tuple[Transfer, ...] = ()
    optional: tuple[ProbeName, ...] = ()

    @classmethod
    def of(
        cls,
        *encoders: str | Path,
        data: str | Path,
        probes: Sequence[ProbeName | Literal["all"]] = ("all",),
        probe: ProbeConfig | None = None,
        **source: Any,
    ) -> "Probing":
        """Ask about a data set of any format; what ``source`` says goes to its ``SourceConfig``.

        Raises:
            ConfigError: no such field of ``SourceConfig``.
            DataError: no data set that we know is there.
        """
        if odd := sorted(source.keys() - {each.name for each in fields(SourceConfig)}):
            raise ConfigError(f"a SourceConfig has no fields {odd}; give camera, split_seed, ...")
        config, optional = chosen(probes, probe or ProbeConfig())
        return cls(
            encoders=tuple(map(str, encoders)),
            source=SourceConfig(episodes=configure(data), **source),
            probe=config,
            optional=optional,
        )

    def subjects(self) -> list[Subject]:
        """Load every encoder beside its untrained twin.

        Raises:
            CheckpointError: a folder does not hold an encoder, or weights are not to be had.
            ConfigError: no encoder, one twice, or a name that nobody knows.
        """
        places = [exported(Path(given)) or given for given in self.encoders]
        if not places or len(set(places)) < len(places):
            raise ConfigError(f"encoders are {list(self.encoders)}; name one or more, each once")
        found = [subject(given) for given in self.encoders]
        count = Counter(each.name for each in found)  # of a name with several weights
        return [replace(s, name=s.recipe) if count[s.name] > 1 else s for s in found]

    def run(
        self, folder: Path | str, *, command: str = "", report: Report = lambda _: None
    ) -> dict[str, Any]:
        """Probe every encoder beside its untrained network and the floors.

        Raises:
            SaccadeError: an encoder, the data or the question is not what it must be.
        """
        subjects = self.subjects()
        plural = "s" * (len(subjects) > 1)
        question = Question(
            title=f"What {len(subjects)} frozen encoder{plural} know{'s' * (not plural)}",
            command=command or f"Probing(encoders={self.encoders}).run({str(folder)!r})",
            source=self.source,
            probe=self.probe,
            transfers=self.transfers,
            optional=self.optional,
        )
        results = measure(subjects, question, Path(folder), report)
        write(results, Path(folder))
        return results


def chosen(
    probes: Sequence[ProbeName | Literal["all"]], config: ProbeConfig
) -> tuple[ProbeConfig, tuple[ProbeName, ...]]:
    """Return what is asked, and which of it may be left out: all that nobody named."""
    if not probes:
        return config, ()
    names: tuple[ProbeName, ...] = ALL
    if "all" not in probes:
        names = tuple(name for name in ALL if name in probes)
    return replace(config, probes=names), tuple(name for name in names if name not in probes)


def subject(given: str) -> Subject:
    """Load an encoder by folder or name, and build its untrained twin.

    Raises:
        CheckpointError: a folder does not hold an encoder, or weights are not to be had.
        ConfigError: a name that nobody knows.
    """
    name, equals, weights = given.partition("=")
    if not equals and (place := exported(Path(given))) is not None:
        return _own(given, place) if _is_ours(place) else _hub(given, place)
    if not equals and ("/" in given or given.startswith(".")):
        raise CheckpointError(
            f"{given} holds no {CONFIG}; give a folder that a run exported, a run, a folder of "
            f"the hub, or a name such as {' or '.join(list(ENTRIES)[:2])}"
        )
    if weights == RANDOM:
        return Subject(
            name=name,
            recipe=given,
            trained={},
            untrained={0: named(name, random=True)},
            weights=RANDOM,
            notes=["Random weights: a floor, not what its authors published."],
        )
    trained = named(name, Path(weights) if weights else None)
    return Subject(
        name=name,
        recipe=given,
        trained={0: trained},
        untrained={0: named(name, random=True)},
        weights=weights or ENTRIES[name].repository,
    )


def exported(path: Path) -> Path | None:
    """Return the folder of a model: this one, or that which a run exported."""
    return next((p for p in (path, path / EXPORTED) if (p / CONFIG).is_file()), None)


def _is_ours(place: Path) -> bool:
    try:
        return "model" in json.loads((place / CONFIG).read_text())
    except ValueError as error:
        raise CheckpointError(f"{place / CONFIG} is not JSON ({error}); export it anew") from error


def _own(given: str, place: Path) -> Subject:
    trained = Encoder.from_pretrained(place)
    torch.manual_seed(0)
    twin = from_dict(json.loads((place / CONFIG).read_text())["model"]).build()
    return Subject(
        name=given,
        recipe=given,
        trained={0: trained},
        untrained={0: twin.eval()},
        weights=str(place),
    )


def _hub(given: str, place: Path) -> Subject:
    trained = PublishedVisionConfig(folder=place).build()
    torch.manual_seed(0)
    return Subject(
        name=given,
        recipe=given,
        trained={0: trained},
        untrained={0: trained.config.build().eval()},
        weights=str(place),
    )


def offline(encoders: Sequence[str], weights: Path | None) -> tuple[str, ...]:
    """Name the weights of encoders that come without: in a folder by their names, or one file.

    Raises:
        CheckpointError: the folder has nothing for an encoder.
    """
    if weights is None:
        return tuple(encoders)
    bare = [name for name in encoders if name in ENTRIES]
    if len(bare) == 1 and (weights.is_file() or (weights / CONFIG).is_file()):
        return tuple(f"{name}={weights}" if name in bare else name for name in encoders)
    found = {}
    for name in bare:
        places = [weights / name, *sorted(weights.glob(f"{name}.*"))]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise CheckpointError(
                f"{weights} has neither a folder {name} nor a file {name}.safetensors, .pt, .pth "
                f"or .bin; put the weights there, or give {name}=random"
            )
        found[name] = f"{name}={place}"
    return tuple(found.get(name, name) for name in encoders)


def estimate(probing: Probing) -> list[str]:
    """Measure how fast each encoder is on a few clips, and say what all clips will take.

    Raises:
        SaccadeError: an encoder, the data or the question is not what it must be.
    """
    sizes = Sizes(probing.source, probing.probe, probing.transfers)
    subjects = probing.subjects()
    data = sizes.labels(min(sizes.size_of(subject.encoder) for subject in subjects))
    asked = askable(data, probing.probe, probing.optional)
    requests = [request for each in asked.prepared.values() for request in each.requests()]
    lines, seconds, size = [], 0.0, 0
    for each in subjects:
        for encoder in (*each.trained.values(), *each.untrained.values()):
            reader = EncoderReader(
                encoder,
                readings(encoder)[0],
                sizes.of(encoder).views,
                data.camera,
                cache_folder(probing.source.cache) / "clips",
                grid=probing.probe.cells,
                precision=probing.probe.precision,
            )
            missing, took, room = reader.outlook(requests)
            seconds, size = seconds + took, size + room
            lines.append(
                f"{each.name}: {missing:,} clips to encode, about {took / 60:.1f} minutes and "
                f"{room / 1e6:.0f} MB"
            )
    return [
        told_parts(data.parts),
        *sizes.left_out,
        *asked.left_out,
        *lines,
        f"in all about {seconds / 60:.1f} minutes on one core and {size / 1e6:.0f} MB, and the "
        "time to fit readouts",
    ]
