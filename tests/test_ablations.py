"""Every axis changes exactly what it says it changes, and what it makes can be trained."""

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.loader import fixed_batches
from saccade.errors import ConfigError
from saccade.experiments.cells import Cell, Choice, choose, differences, grid
from saccade.experiments.comparison import Method
from saccade.experiments.training import Training, encoder_of
from saccade.models.streams import Streams
from saccade.recipes import two_stream
from saccade.recipes.ablations import AXES, Family, bases, every_base
from saccade.train import alarms
from saccade.train.evaluate import part

VARIANT, CLS, SKIP = "objective.encoder.variant", "objective.cls_source", "objective.skip"
MOTION, FORM = "objective.motion_mask", "objective.form_mask"
LAST, BORDER = "objective.encoder.exchange_after_last", "objective.encoder.border"
FIXED = {"window": "TransitionWindow gap 5"}
STRONG: dict[str, dict[str, Any]] = {
    **{name: {"on": {VARIANT: name}} for name in ("m_only", "p_only", "no_exchange")},
    **{name: {"on": {VARIANT: name}} for name in ("early_fusion", "nine_channel")},
    "exchange_after_last": {"on": {LAST: "True"}},
    "mask_ratio": {
        "0.25": {MOTION: "0.25", FORM: "0.25"},
        "0.5": {FORM: "0.5"},  # motion is 0.5 already
        "0.75": {MOTION: "0.75"},
        "0.9": {MOTION: "0.9", FORM: "0.9"},
    },
    "gap_law": {
        **{law: {"window.law": law} for law in ("exponential", "uniform", "linear")},
        "fixed": FIXED,
    },
    "border": {"zeros": {BORDER: "zeros"}},
}
ORIGINAL: dict[str, dict[str, Any]] = {
    name: {"on": {VARIANT: name, CLS: "none"}}
    for name in ("m_only", "p_only", "early_fusion", "nine_channel")
} | {
    "no_exchange": {"on": {VARIANT: "no_exchange"}},
    "exchange_after_last": {"on": {LAST: "True"}},
    "cls_source": {"none": {CLS: "none"}, "final": {CLS: "final"}},
    "skip": {"off": {SKIP: "False"}},
    "decoder": {
        "A": {CLS: "none", SKIP: "False"},
        "B": {CLS: "none"},
        "C": {CLS: "final", SKIP: "False"},
    },
    "gap_law": {
        **{law: {"window.law": law} for law in ("triangular", "uniform", "linear")},
        "fixed": FIXED,
    },
    "border": {"replicate": {BORDER: "replicate"}},
}
CASES = [("strong", STRONG), ("original", ORIGINAL)]
NAMES = [axis.name for axis in AXES]


def cells(base: Method, *names: str, full: bool = False) -> list[Cell]:
    """All cells of the named axes, or of all that the base has."""
    axes = [axis for axis in AXES if (axis.name in names or not names)]
    return grid(base, [Choice(axis, axis.values) for axis in axes], full=full)


@pytest.fixture(scope="module")
def small() -> list[Cell]:
    """Every cell of Two-Stream at debug size."""
    return [cell for base in bases("two_stream", "both", "debug") for cell in cells(base)]


@pytest.mark.parametrize(("preset", "expected"), CASES)
def test_a_cell_differs_from_its_base_in_the_stated_fields_alone(
    preset: Any, expected: dict[str, dict[str, Any]]
) -> None:
    (base,) = bases("two_stream", preset, "tiny")
    for axis in AXES:
        found = cells(base, axis.name)
        assert {c.settings[axis.name]: c.changes for c in found} == expected.get(axis.name, {})
        assert axis.applies(base.training) == (axis.name in expected)
        for cell in found:
            assert dict(differences(base.training, cell.training)) == cell.changes
            assert {path.rpartition(".law")[0] or path for path in cell.changes} <= set(axis.sets)


def test_the_other_families_have_the_axes_that_mean_something_there() -> None:
    found = {
        base.name: {axis.name for axis in AXES if axis.applies(base.training)}
        for family in ("single_stream", "video_mae")
        for base in bases(family, "both", "tiny")
    }
    single = {"m_only", "p_only", "early_fusion", "gap_law", "border"}
    assert found == {
        "single-stream strong": single | {"mask_ratio"},
        "single-stream original": single | {"skip"},
        "video-mae strong": {"mask_ratio", "gap_law"},
        "video-mae original": {"mask_ratio", "gap_law"},
    }
    (mae,) = bases("video_mae", "strong", "tiny")
    ratios = [cell.changes for cell in cells(mae, "mask_ratio")]
    assert ratios == [{"objective.mask_ratio": value} for value in ("0.25", "0.5", "0.9")]


def test_an_axis_has_a_name_and_a_sentence_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for axis in AXES:
        assert axis.about.endswith(".")
        assert len(set(axis.values)) == len(axis.values)


def test_every_cell_trains_and_survives_json(small: list[Cell]) -> None:
    source = two_stream.debug().source.open(32)
    for cell in {cell.name: cell for cell in small}.values():
        training = cell.training
        assert from_dict(json.loads(json.dumps(to_dict(training)))) == training
        objective = training.build()
        (clip,) = fixed_batches(source.train, training.window, source.cameras, 4, 4, seed=0)
        loss, _ = objective(clip)
        loss.backward()
        assert loss.isfinite(), cell.name
        moved = [p.grad is not None and bool(p.grad.any()) for p in objective.parameters()]
        assert sum(moved) > len(moved) / 2, cell.name


def channels(training: Training) -> dict[str, int]:
    """Channels that each stream reads."""
    encoder = encoder_of(training.build())
    assert isinstance(encoder, Streams)
    area = encoder.config.patch**2
    return {name: encoder.stream(name).to_token.in_features // area for name in encoder.layout}


def test_streams_are_removed_joined_and_parted(small: list[Cell]) -> None:
    seen = {
        axis: {name: channels(cell.training)}
        for cell in small
        for axis, name in [(next(iter(cell.settings)), cell.base)]
        if VARIANT in cell.changes
    }
    expected = {"m_only": {"m": 4}, "p_only": {"p": 5}, "nine_channel": {"mp": 9}}
    expected |= {"early_fusion": {"frames": 6}, "no_exchange": {"m": 4, "p": 5}}
    assert {axis: next(iter(by.values())) for axis, by in seen.items()} == expected
    apart = next(c for c in small if "no_exchange" in c.settings).training
    encoder = encoder_of(apart.build())
    assert isinstance(encoder, Streams)
    assert not len(encoder.exchanges)


def test_early_fusion_alone_rings_the_leak_alarm(small: list[Cell]) -> None:
    episodes = two_stream.debug().source.open(32)
    window = two_stream.debug().window
    (clip,) = fixed_batches(episodes.train, window, episodes.cameras, 4, 4, seed=0)
    leaking = {cell.name for cell in small if alarms.leak(cell.training.build(), part(clip, 0, 4))}
    assert leaking == {cell.name for cell in small if "early_fusion" in cell.settings}
    assert len(leaking) == 2


def test_gap_laws_keep_the_longest_gap_and_fixed_has_one(small: list[Cell]) -> None:
    laws = {c.settings["gap_law"]: c.training.window for c in small if "gap_law" in c.settings}
    gaps = {law: window.gaps() for law, window in laws.items()}
    assert gaps.pop("fixed")[0].tolist() == [5]
    for law, (each, share) in gaps.items():
        assert each.tolist() == list(range(1, 11)), law
        assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(gaps["uniform"][1], 0.1)
    assert gaps["linear"][1][9] == pytest.approx(10 * gaps["linear"][1][0])


def test_every_size_of_every_family_has_bases() -> None:
    assert len(every_base()) == 2 * len(get_args(Family))
    for family in get_args(Family):
        for size in ("small", "base"):
            pair = bases(family, "both", size)
            assert [base.recipe for base in pair] == [
                f"{family}:strong_{size}",
                f"{family}:original_{size}",
            ]
    with pytest.raises(ConfigError, match="video_mae has no recipe 'debug_original'"):
        bases("video_mae", "both", "debug")


def test_a_full_grid_has_every_meaningful_combination_once() -> None:
    (base,) = bases("two_stream", "original", "tiny")
    wanted = ["m_only", "p_only", "exchange_after_last", "cls_source", "skip"]
    found = grid(base, choose(wanted, AXES, [base], []), full=True)
    # both streams: exchange (2) x source (3) x skip (2); one stream (2): skip (2); less the base
    assert len(found) == len({cell.name for cell in found}) == 12 + 4 - 1
    for cell in found:
        alone = cell.settings.keys() & {"m_only", "p_only"}
        assert len(alone) <= 1
        assert not (alone and cell.settings.keys() & {"exchange_after_last", "cls_source"})
    both = grid(base, choose(["cls_source", "skip", "decoder"], AXES, [base], []), full=True)
    assert len({cell.name for cell in both}) == 5  # decoders are sources and skips: 3 x 2 - base


def test_a_mask_ratio_is_of_the_streams_that_are_there() -> None:
    (base,) = bases("two_stream", "strong", "tiny")
    found = cells(base, "m_only", "mask_ratio", full=True)
    both = [c for c in found if len(c.settings) == 2]
    ratios = {c.settings["mask_ratio"]: c.changes for c in both}
    motion = {r: {VARIANT: "m_only", MOTION: r} for r in ("0.25", "0.75", "0.9")}
    assert ratios == motion
    (single,) = bases("single_stream", "strong", "tiny")
    assert [c.changes for c in cells(single, "mask_ratio")] == [
        {FORM: r} for r in ("0.25", "0.5", "0.9")
    ]


def test_another_seed_changes_no_cell() -> None:
    (base,) = bases("two_stream", "strong", "debug")
    other = replace(base.training, train=replace(base.training.train, seed=5))
    moved = replace(base, training=other)
    assert [c.name for c in cells(moved)] == [c.name for c in cells(base)]
    with torch.device("meta"):
        assert all(c.training.train.seed == 5 for c in cells(moved))
