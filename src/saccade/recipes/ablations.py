"""What can be ablated: the bases by family, preset and size, and the axes along which they vary.

An axis that only ``original`` has (CLS source, skip, decoder) does not exist for ``strong``,
whose decoders are per stream, and the other way round (mask ratio). The fusion of patch tokens
has one form, so it is no axis.
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal, cast, get_args

from saccade.data.windows import PairWindow, TransitionWindow
from saccade.errors import ConfigError
from saccade.experiments.cells import Axis
from saccade.experiments.comparison import Method
from saccade.experiments.training import Training
from saccade.models.streams import STREAMS, StreamsConfig, Variant
from saccade.objectives.future_patches import FuturePatchesConfig
from saccade.objectives.future_pixels import FuturePixelsConfig
from saccade.objectives.video_mae import VideoMAEConfig
from saccade.recipes import single_stream, two_stream, video_mae
from saccade.recipes.single_stream import ablated

Family = Literal["two_stream", "single_stream", "video_mae"]
Preset = Literal["strong", "original", "both"]
Size = Literal["tiny", "small", "base", "debug"]
MODULES: dict[Family, ModuleType] = {
    "two_stream": two_stream,
    "single_stream": single_stream,
    "video_mae": video_mae,
}
VARIANT = "objective.encoder.variant"
DECODERS = {  # cls_source and skip
    "A": ("none", False),
    "B": ("none", True),
    "C": ("final", False),
    "D": ("intermediate", True),
}


def bases(family: Family, preset: Preset, size: Size) -> list[Method]:
    """Return what the cells of a family are compared with; for ``both``, each preset's own.

    Raises:
        ConfigError: the family has no such recipe.
    """
    presets = ("strong", "original") if preset == "both" else (preset,)
    found = []
    for each in presets:
        name = f"{each}_{size}"
        if size == "debug":
            name = {"strong": "debug", "original": "debug_original"}[each]
        recipe = getattr(MODULES[family], name, None)
        if recipe is None:
            raise ConfigError(
                f"{family} has no recipe {name!r}; choose another --preset or --size than "
                f"{preset} and {size}"
            )
        told = f"{family} {each}".replace("_", "-")
        found.append(Method(name=told, recipe=f"{family}:{name}", training=recipe()))
    return found


def every_base() -> list[Method]:
    """Return the bases of all families, at the size of a demonstration."""
    return [base for family in get_args(Family) for base in bases(family, "both", "tiny")]


def _variant(name: Variant, of: tuple[Variant, ...], about: str) -> Axis:
    """Make an axis of another set of streams, for a base that has one of the sets ``of``."""

    def applies(training: Training) -> bool:
        streams = _streams(training)
        return streams is not None and streams.variant in of

    return Axis(
        name=name,
        about=about,
        values=("on",),
        sets=(VARIANT, "objective.cls_source"),
        applies=applies,
        change=lambda training, _: ablated(training, name),
    )


def _field(
    name: str,
    about: str,
    values: dict[str, Any],
    path: str,
    applies: Callable[[Training], bool],
) -> Axis:
    """Make an axis of one field of the objective, or of its encoder."""
    place, _, field = path.rpartition(".")

    def change(training: Training, value: str) -> Training:
        objective = cast(Any, training.objective)
        if place == "objective.encoder":
            changed = replace(objective.encoder, **{field: values[value]})
            return replace(training, objective=replace(objective, encoder=changed))
        return replace(training, objective=replace(objective, **{field: values[value]}))

    return Axis(
        name=name, about=about, values=tuple(values), sets=(path,), applies=applies, change=change
    )


def _streams(training: Training) -> StreamsConfig | None:
    objective = training.objective
    streams = isinstance(objective, FuturePatchesConfig | FuturePixelsConfig)
    return objective.encoder if streams else None


def _exchanges(training: Training) -> bool:
    streams = _streams(training)
    return streams is not None and streams.variant == "two_stream"


def _sees_form(training: Training) -> bool:
    streams = _streams(training)
    return streams is not None and any("form" in c for c in STREAMS[streams.variant].values())


def _has_unet(training: Training) -> bool:
    return isinstance(training.objective, FuturePixelsConfig)


def _has_film(training: Training) -> bool:
    streams = _streams(training)
    return _has_unet(training) and streams is not None and len(STREAMS[streams.variant]) > 1


def _has_whole_decoder(training: Training) -> bool:
    objective = training.objective
    whole = isinstance(objective, FuturePixelsConfig) and (objective.cls_source, objective.skip)
    return _has_film(training) and whole == DECODERS["D"]


def _decoder(training: Training, value: str) -> Training:
    assert isinstance(training.objective, FuturePixelsConfig)
    source, skip = DECODERS[value]
    objective = replace(training.objective, cls_source=cast(Any, source), skip=skip)
    return replace(training, objective=objective)


def _masks(training: Training) -> bool:
    return isinstance(training.objective, FuturePatchesConfig | VideoMAEConfig)


def _mask_ratio(training: Training, value: str) -> Training:
    """Hide the same share in every stream that there is."""
    objective, ratio = training.objective, float(value)
    if isinstance(objective, VideoMAEConfig):
        return replace(training, objective=replace(objective, mask_ratio=ratio))
    assert isinstance(objective, FuturePatchesConfig)
    layout = STREAMS[objective.encoder.variant].values()
    masks = {"motion_mask" if groups == ("motion",) else "form_mask" for groups in layout}
    return replace(training, objective=replace(objective, **dict.fromkeys(masks, ratio)))


def _gap_law(training: Training, value: str) -> Training:
    """Draw gaps by another law, with the same longest one; ``fixed`` is the middle one alone."""
    window = training.window
    assert isinstance(window, PairWindow)
    if value != "fixed":
        return replace(training, window=replace(window, law=cast(Any, value)))
    middle = TransitionWindow(
        gap=(window.max_gap + 1) // 2,
        step_seconds=window.step_seconds,
        per_episode=window.per_episode,
    )
    return replace(training, window=middle)


ONE_OR_TWO: tuple[Variant, ...] = ("two_stream", "nine_channel")
AXES = (
    _variant("m_only", ONE_OR_TWO, "One stream on the motion channels; form is removed."),
    _variant("p_only", ONE_OR_TWO, "One stream on the form channels; motion is removed."),
    _variant(
        "no_exchange",
        ("two_stream",),
        "Both streams, whose CLS tokens never meet: their patches are only concatenated.",
    ),
    _variant(
        "early_fusion",
        ONE_OR_TWO,
        "One stream on both frames stacked, 6 channels: it sees its target, so expect the leak "
        "alarm and a shortcut.",
    ),
    _variant(
        "nine_channel",
        ("two_stream",),
        "One stream on motion and form channels stacked: the single-stream baseline.",
    ),
    _field(
        "exchange_after_last",
        "Whether CLS tokens meet once more after the last stage.",
        {"on": True, "off": False},
        "objective.encoder.exchange_after_last",
        _exchanges,
    ),
    _field(
        "cls_source",
        "Which CLS tokens shift the U-Net's channels: none, the final one at all levels, or "
        "those of the stages.",
        {"none": "none", "final": "final", "intermediate": "intermediate"},
        "objective.cls_source",
        _has_film,
    ),
    _field(
        "skip",
        "Whether the U-Net is given the current frame at a quarter of the resolution.",
        {"on": True, "off": False},
        "objective.skip",
        _has_unet,
    ),
    Axis(
        name="decoder",
        about="The U-Net grows: A patches only, B with the current frame, C with the final CLS "
        "instead, D with the stages' CLS and the current frame.",
        values=tuple(DECODERS),
        sets=("objective.cls_source", "objective.skip"),
        applies=_has_whole_decoder,
        change=_decoder,
    ),
    Axis(
        name="mask_ratio",
        about="The share of hidden patches, the same in every stream.",
        values=("0.25", "0.5", "0.75", "0.9"),
        sets=("objective.motion_mask", "objective.form_mask", "objective.mask_ratio"),
        applies=_masks,
        change=_mask_ratio,
    ),
    Axis(
        name="gap_law",
        about="How gaps up to the same longest one are drawn; fixed is always the middle one.",
        values=("exponential", "triangular", "uniform", "linear", "fixed"),
        sets=("window",),
        applies=lambda training: isinstance(training.window, PairWindow),
        change=_gap_law,
    ),
    _field(
        "border",
        "How the Sobel operator pads: zeros draw a frame around the picture.",
        {"zeros": "zeros", "replicate": "replicate"},
        "objective.encoder.border",
        _sees_form,
    ),
)
