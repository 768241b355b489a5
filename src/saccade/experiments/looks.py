"""What people would rather look at: projections, confusions, flow, and how alive features are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib import colormaps
from matplotlib.image import imsave

from saccade.errors import DataError
from saccade.evals import projection
from saccade.evals.clips import read_video
from saccade.evals.features import Reader
from saccade.evals.probe import Probed
from saccade.evals.probes.base import Data, Prepared, ProbeConfig
from saccade.evals.probes.clusters import ClustersProbe
from saccade.evals.probes.flow import FlowProbe
from saccade.evals.probes.order import OrderProbe
from saccade.nn.spread import feature_norms, spread

POINTS = 400  # of a projection
FLOORS = ("raw pixel change", "flow histogram")  # whose flow is drawn beside the methods'
SIDE = 96  # pixels of each of its squares


def record(
    asked: Sequence[Probed],
    prepared: Mapping[str, Prepared],
    data: Data,
    config: ProbeConfig,
    folder: Path,
) -> dict[str, Any]:
    """Return the entries of the results that are drawn; of each representation, the first seed."""
    found: dict[str, Any] = {"projections": [], "confusions": [], "diagnostics": []}
    order, flow, cluster = (prepared.get(name) for name in ("order", "flow", "clusters"))
    for probed in asked:
        who = probed.representation
        if isinstance(cluster, ClustersProbe) and who.reading:
            reader = next(iter(who.readers.values()))
            found["projections"] += _projections(who.name, reader, cluster, config)
            x = reader.vectors("test", cluster.clips["test"])
            alive = {**spread(x), **feature_norms(x)}
            features = {
                "std": alive["std"],
                "effective_rank": alive["effective_rank"],
                "mean_cosine": alive["cosine"],
                "norm": alive["norm"],
                "dims": x.shape[1],
            }
            found["diagnostics"].append({"representation": who.name, "features": features})
        if isinstance(order, OrderProbe):
            found["confusions"] += _confusions(probed, order, config)
    if isinstance(flow, FlowProbe):
        found["flow_pictures"] = _flow_pictures(asked, flow, data, folder)
    return found


def _confusions(probed: Probed, order: OrderProbe, config: ProbeConfig) -> list[dict[str, Any]]:
    """Return how often each order was taken for which, by the first readout."""
    return [
        {
            "representation": probed.representation.name,
            "probe": "order",
            "target": key.target,
            "split": key.split,
            "gap": key.gap,
            "labels": order.names(key.target),
            "counts": scored.answer.drawn.tolist(),
        }
        for key, scored in probed.scores.items()
        if (key.probe, key.condition, key.readout) == ("order", "", config.readouts[0])
        and scored.answer.drawn is not None
    ]


def _projections(
    name: str, reader: Reader, cluster: ClustersProbe, config: ProbeConfig
) -> list[dict[str, Any]]:
    """Draw the test clips in two dimensions, by task if tasks are named, else by behaviour."""
    labelled = next(iter(cluster.labels["test"]), None)
    if labelled is None:
        return []
    x = reader.vectors("test", cluster.clips["test"])
    drawn = []
    for method in ("PCA", "t-SNE"):
        try:
            points = (
                projection.pca(x, seed=config.seed, most=POINTS)
                if method == "PCA"
                else projection.tsne(x, config.seed, most=POINTS)
            )
        except DataError:  # too few clips, or too few features, for a picture
            continue
        drawn.append(
            {
                "representation": name,
                "method": method,
                "labels": list(labelled.names),
                "label": labelled.label[points.chosen].tolist(),
                "x": np.round(points.points[:, 0], 4).tolist(),
                "y": np.round(points.points[:, 1], 4).tolist(),
            }
        )
    return drawn


def _flow_pictures(
    asked: Sequence[Probed], flow: FlowProbe, data: Data, folder: Path
) -> dict[str, str]:
    """Draw pairs of the test part with their true flow, and what each method reads off them."""
    ((_, parts),) = flow.asked.items()
    flowing, rows = parts["test"], flow.pictured
    clips = flowing.clips.taken(rows)
    video = np.concatenate(
        [v.numpy() for v in read_video(data.parts["test"], clips, data.camera, 64)]
    )
    shown = {f"true ({flow.target})": flowing.flow[rows]}
    shown |= {
        probed.representation.name: scored.answer.drawn
        for probed in asked
        if probed.representation.kind == "method" or probed.representation.name in FLOORS
        for key, scored in probed.scores.items()
        if key.probe == "flow" and scored.answer.drawn is not None
    }
    reach = float(np.nanpercentile(np.linalg.norm(flowing.flow[rows], axis=-1), 99)) or 1.0
    frames = [np.moveaxis(video[:, i], 1, -1) for i in (0, -1)]
    place = folder / "pictures"
    place.mkdir(parents=True, exist_ok=True)
    found = {}
    every = {"first frame": frames[0], "last frame": frames[1], **shown}
    for number, (name, values) in enumerate(every.items()):
        tiles = values if values.dtype == np.uint8 else coloured(values, reach)
        path = place / f"flow-{number:02}.png"
        imsave(path, np.concatenate([_square(tile) for tile in tiles], 1))
        found[name] = str(path.relative_to(folder))
    return found


def coloured(flow: Float64[np.ndarray, "n g g 2"], reach: float) -> np.ndarray:
    """Paint directions as hues and lengths as strength; white is rest, grey is not known."""
    known = np.isfinite(flow).all(-1)
    x, y = np.moveaxis(np.nan_to_num(flow), -1, 0)
    hue = colormaps["hsv"]((np.arctan2(y, x) / (2 * np.pi)) % 1)[..., :3]
    strength = np.clip(np.hypot(x, y) / reach, 0, 1)[..., None]
    picture = np.where(np.expand_dims(known, -1), 1 - strength * (1 - hue), 0.6)
    return (255 * picture).round().astype(np.uint8)


def _square(tile: np.ndarray) -> np.ndarray:
    """Enlarge (or thin) a square picture to the side of all, by the nearest pixel, with a rim."""
    rows = (np.arange(SIDE) * len(tile)) // SIDE
    return np.pad(tile[rows][:, rows], ((1, 1), (1, 1), (0, 0)), constant_values=255)
