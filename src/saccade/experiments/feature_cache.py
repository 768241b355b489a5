"""Encode the frames of a data set once, with the frozen encoder of a world model.

    CACHE/features/<digest>/    see ``data/cache/features.py``; ``about.json`` says of what they are

The digest covers all that features depend on: the data, camera, crop and size of the frames; the
encoder's class, config and every weight; how its tokens become features; the precision of
computing and of keeping. Not the device: a GPU's features are those of a CPU up to rounding.
Where there are features already, one frame is encoded again and compared with what is kept.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.checkpoint import write_atomic
from saccade.data.cache import reader
from saccade.data.cache.features import VERSION, Encode, FeaturedEpisodes, FeatureStore, Precision
from saccade.errors import DataError
from saccade.evals.features import digest_encoder
from saccade.experiments.source import Parts, Report
from saccade.models.one_frame import SAME, repeats
from saccade.models.world_model import ActionWorldModel
from saccade.train.config import TrainConfig
from saccade.train.distributed import device_of
from saccade.train.evaluate import autocast

CODE = "features-1"  # change it when the same weights give other features


def with_features(
    model: ActionWorldModel,
    parts: Parts,
    precision: Precision,
    train: TrainConfig,
    cache: Path,
    report: Report = lambda _: None,
) -> Parts:
    """Return the data with kept features in ``train`` and ``select``, encoding what is missing.

    Moves the encoder to the device of training.

    Raises:
        DataError: a frame cannot be read, or what is kept is not what the encoder makes now.
        NumericError: a feature is not finite in the precision.
        SpaceError: the features do not fit on the disk.
    """
    about = description(model, parts, precision, train)
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    shape = model.config.predictor
    kept = FeatureStore(
        cache / "features" / digest,
        parts.whole.lengths,
        (shape.grid[0] * shape.grid[1], shape.feature_dim),
        precision,
    )
    device = device_of(train.device)
    model.encoder.to(device)

    def encode(video: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        with autocast(train.precision, device):
            return model.encode(video[None].to(device))[0]

    members = sorted({*parts.train.keep, *parts.select.keep})
    _require_same(kept, parts, members, encode)
    if not (kept.folder / "about.json").exists():
        write_atomic(kept.folder / "about.json", json.dumps(about, indent=2) + "\n")
    kept.complete(parts.whole, parts.camera, members, encode, report)
    train_part, select = (
        FeaturedEpisodes(parts.whole, part.keep, kept) for part in (parts.train, parts.select)
    )
    return parts._replace(train=train_part, select=select)


def description(
    model: ActionWorldModel, parts: Parts, precision: Precision, train: TrainConfig
) -> dict[str, Any]:
    """Return all that the features depend on, as JSON values."""
    return {
        "data": parts.whole.fingerprint,  # with the crop and the size
        "camera": parts.camera,
        "encoder": digest_encoder(model.encoder),
        "config": repr(getattr(model.encoder, "config", None)),  # what no weight shows: heads, rope
        "repeats": repeats(model.encoder),
        "tokens": model.config.tokens,
        "normalise": model.config.normalise,
        "computed_in": train.precision,
        "kept_in": precision,
        "versions": [CODE, VERSION, reader.VERSION],
    }


def _require_same(kept: FeatureStore, parts: Parts, members: list[int], encode: Encode) -> None:
    """Encode the first frame again, if it is kept, and compare.

    Raises:
        DataError: they differ by more than rounding.
    """
    if kept.missing(members[:1]):
        return
    frame = np.zeros(1, np.int64)
    video = parts.whole.read(members[0], frame, (parts.camera,))["video"][:, 0]
    expected, found = encode(video).cpu(), kept.read(members[0], frame).float()
    apart = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    if not apart <= SAME:
        raise DataError(
            f"features in {kept.folder} are {apart:.2f} of their size away from what the encoder "
            f"makes of the same frame, at most {SAME} is rounding; delete that folder and run again"
        )
