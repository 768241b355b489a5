"""Results as a real comparison writes them: three methods, floors, two seeds, all probes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.image import imsave

from tests.report.criteria_fixture import CRITERIA

METHODS = {"two-stream strong": 0.62, "single-stream": 0.55, "video-mae": 0.47}
FLOORS = {
    "raw pixel change": 0.41,
    "position only": 0.28,
    "raw pixels": 0.22,
    "task only": 0.03,
    "copy": -0.08,
}
RANDOM = {"two-stream strong": 0.31, "single-stream": 0.34, "video-mae": 0.25}
GROUPS = {"position": (0.0, 0.01), "rotation": (-0.2, 0.087), "gripper": (0.12, 0.1)}
COSTS = {
    "two-stream strong": (7_412_288, 9_120_128, 2.81e9, 148.2, 1240.0),
    "single-stream": (5_318_400, 6_004_224, 1.96e9, 203.7, 980.0),
    "video-mae": (5_290_752, 6_871_040, 1.12e9, 331.9, 861.0),
}


def realistic(folder: Path, *, lean: bool = False) -> dict[str, Any]:
    """Build results, and write the pictures that they name into the folder.

    ``lean`` leaves out what may be absent: held-out tasks, rotation, all methods but one.
    """
    splits, unseen = ("test",) if lean else ("test", "unseen"), not lean
    groups = ["position", "gripper"] if lean else list(GROUPS)
    methods = list(METHODS)[:1] if lean else list(METHODS)
    parts = {"train": 160, "select": 24, "test": 24} | ({"unseen": 52} if unseen else {})
    held_out = ["close the drawer", "press the button"] if unseen else []
    return {
        "schema": 2,
        "title": "Meta-World, ten tasks: three ways to pretrain",
        "created": "2026-11-20 17:05 UTC",
        "commands": [
            "saccade collect metaworld --tasks 10 --episodes 26 --size 128 --out runs/demo/data",
            "saccade compare two_stream:tiny single_stream:tiny video_mae:tiny --seeds 2",
        ],
        "versions": {"saccade": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.1"},
        "machine": {
            "cpu": "AMD EPYC 9B14",
            "cores": 2,
            "memory_gb": 15.6,
            "accelerator": None,
            "platform": "Linux-6.1-x86_64",
        },
        "commit": "03140bb",
        "data": {
            "path": "runs/demo/data",
            "fingerprint": "5f0c2a9e41d7",
            "fps": 20.0,
            "camera": "corner2",
            "label_frame": "camera",
            "image_size": 128,
            "tasks": ["reach", "push", "pick and place", "open the door", "open the drawer"],
            "held_out_tasks": held_out,
            "parts": {name: {"episodes": n, "frames": 81 * n} for name, n in parts.items()},
        },
        "budget": {
            "samples": 24_000,
            "seeds": [0, 1],
            "probe": {
                "probes": ["action"] if lean else ["action", "flow", "order", "clusters"],
                "gaps": [1, 5, 10],
                "readouts": ["linear"] if lean else ["linear", "MLP"],
                "stride": 2,
                "most": 4000,
            },
        },
        "models": [_model(name, folder) for name in methods],
        "probes": probe_rows(splits, groups, methods, lean=lean),
        "paired": [] if lean else _paired(splits),
        "criteria": CRITERIA,
        "verdict": {
            "sentence": "All three pretrained encoders beat their random-init floors on held-out "
            "episodes; two-stream strong leads, single-stream and video-mae are not separated.",
            "success": True,
            "details": ["Raw pixel change, the best floor, lies below every method."],
        },
        "seconds": {"collect": 96.4, "train": 241.0, "probe": 38.2},
        **({} if lean else extras(folder)),
    }


def _model(name: str, folder: Path) -> dict[str, Any]:
    encoder, trained, flops, speed, memory = COSTS[name]
    return {
        "name": name,
        "image_size": 128,
        "frames": 2,
        "weights": f"runs/demo/{name.replace(' ', '-')}",
        "encoded_per_second": speed * 1.9,
        "store_mb": 61.5,
        "recipe": f"{name.split()[0].replace('-', '_')}:tiny",
        "encoder_parameters": encoder,
        "trained_parameters": trained,
        "flops_per_sample": flops,
        "samples_per_second": speed,
        "peak_memory_mb": memory,
        "notes": ["The CLS of fusion gets no gradient; patch means are exported."]
        if name == "two-stream strong"
        else [],
        "runs": [_run(name, seed, folder) for seed in (0, 1)],
    }


def _run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng((seed, len(name)))
    end = 1.15 - METHODS[name]
    history = []
    for step in range(0, 376, 25):
        ratio = end + (2.2 - end) * np.exp(-step / 60) + rng.normal(0, 0.01)
        scores = {"loss": 0.042 * ratio, "baseline": 0.042} if step % 50 == 0 else None
        history.append(
            {"step": step, "samples": 64 * step, "train": {"loss": 0.043 * ratio}, "eval": scores}
        )
    return {
        "seed": seed,
        "folder": f"runs/demo/{name.replace(' ', '-')}/seed-{seed}",
        "history": history,
        "baseline_name": "mean patch" if name == "video-mae" else "copy",
        "alarms": [],
        "features": {"std": 0.31, "effective_rank": 41.7, "mean_cosine": 0.22},
        "pictures": _pictures(name, folder) if seed == 0 else {},
    }


def _pictures(name: str, folder: Path) -> dict[str, str]:
    now, later = scene(48), scene(70)
    shown = {"frame t": now, "truth t+5": later, "prediction": (later + scene(66)) / 2}
    if "stream" in name:
        shown["M: change of luminance"] = 0.5 + 0.5 * (later - now).mean(2)
        shown["P: edges"] = np.abs(np.gradient(now.mean(2))[1]) * 4
    paths = {}
    for title, picture in shown.items():
        slug = "".join(c if c.isalnum() else "-" for c in f"{name} {title}")
        path = folder / "pictures" / f"{slug}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, picture.clip(0, 1), cmap="gray", vmin=0, vmax=1)
        paths[title] = f"pictures/{slug}.png"
    return paths


def scene(x: float, size: int = 128) -> np.ndarray:
    """Draw a table, a puck and an arm whose hand is at column x."""
    row, column = np.mgrid[:size, :size]
    picture = np.full((size, size, 3), (0.82, 0.85, 0.87)) - 0.1 * (row / size)[..., None]
    picture[row > 74] = (0.62, 0.47, 0.33)
    arm = np.abs(column - x - 0.35 * (60 - row)) < 6
    picture[arm & (row < 62)] = (0.72, 0.16, 0.14)
    hand = (np.abs(np.abs(column - x) - 7) < 2.5) & (np.abs(row - 68) < 9)
    picture[hand] = (0.2, 0.2, 0.22)
    picture[(column - 86) ** 2 + 3 * (row - 92) ** 2 < 110] = (0.12, 0.4, 0.75)
    return picture


class Asked(NamedTuple):
    """A question, as the fields of a row, and what a base score of 0 to 1 becomes in it."""

    probe: str
    target: str
    group: str
    metric: str
    shift: float = 0.0
    scale: float = 1.0
    chance: float | None = None
    readouts: tuple[str, ...] = ("linear", "MLP")
    gaps: tuple[int, ...] = (1, 5, 10)
    splits: tuple[str, ...] = ("test", "unseen")
    half: float = 0.035


ACTION = Asked("action", "displacement", "position", "r2")
FLOW = Asked("flow", "simulator", "", "epe", 4.2, -3.0, half=0.12)
ORDER = Asked("order", "two orders", "", "accuracy", 0.5, 0.6, 0.5, gaps=(5,), half=0.03)
SIX = Asked("order", "six orders", "", "accuracy", 1 / 6, 0.8, 1 / 6, gaps=(5,), half=0.04)
PURITY = Asked("clusters", "task", "", "purity", 0.2, 0.9, 0.2, ("",), (5,), ("test",), 0.05)
BEHAVIOUR = PURITY._replace(target="behaviour", scale=0.6)
CONDITIONS = {
    "no motion shown": -0.45,
    "beyond position": -0.12,
    "beyond appearance": -0.2,
    "noise 16": -0.06,
    "noise 32": -0.15,
    "JPEG 20": -0.05,
    "lighting 0.6": -0.09,
    "camera shift 0.05": -0.21,
}
LABELS = {0.05: -0.3, 0.1: -0.2, 0.3: -0.08}


def probe_rows(
    splits: tuple[str, ...], groups: list[str], methods: list[str], *, lean: bool
) -> list[dict[str, Any]]:
    """Score every representation on every question."""
    rng = np.random.default_rng(0)
    named: list[tuple[str, str, float, str | None]] = [
        (name, "method", METHODS[name], None) for name in methods
    ]
    named += [(f"random {name}", "floor", RANDOM[name], name) for name in methods]
    named += [(name, "floor", score, None) for name, score in FLOORS.items()]
    asked = [
        ACTION._replace(group=group, metric=metric, shift=GROUPS[group][0], splits=splits)
        for group in groups
        for metric in ("r2", "within")
    ]
    asked = [question._replace(readouts=("linear",)) for question in asked] if lean else asked
    if not lean:
        asked += [FLOW, FLOW._replace(target="DIS"), ORDER, SIX, PURITY, BEHAVIOUR]
        asked += [
            PURITY._replace(metric="nmi", chance=None),
            PURITY._replace(metric="silhouette", chance=None, shift=-0.1),
        ]
    rows = []
    for name, kind, base, owner in named:
        known = {"representation": name, "kind": kind, "floor_of": owner}
        for question in asked:
            rows += _plain(known, base, question, rng)
        if not lean:
            rows += _marked(known, base, rng)
    return rows


def _plain(known: dict[str, Any], base: float, asked: Asked, rng: Any) -> list[dict[str, Any]]:
    lifts = {1: -0.18, 5: 0.0, 10: 0.05}
    rows = []
    for gap in asked.gaps:
        for split in asked.splits:
            for readout in asked.readouts:
                lift = lifts[gap] - 0.12 * (split == "unseen") + 0.04 * (readout == "MLP")
                lift = 0 if known["representation"] == "copy" else lift
                score = base + lift + rng.normal(0, 0.01)
                rows.append(row(known, asked, score, gap=gap, split=split, readout=readout))
    return rows


def _marked(known: dict[str, Any], base: float, rng: Any) -> list[dict[str, Any]]:
    """Score what was controlled, perturbed, or fitted on fewer episodes."""
    rows = []
    for condition, change in CONDITIONS.items():
        score = base + change + rng.normal(0, 0.01)
        rows.append(row(known, ACTION, score, condition=condition))
        if condition.startswith(("noise", "JPEG")):
            rows.append(row(known, FLOW, score, condition=condition))
    for share, change in LABELS.items():
        rows.append(row(known, ACTION, base + change + rng.normal(0, 0.01), labels=share))
    rows.append(row(known, ORDER, max(base - 0.4, 0.0), condition="first frame only"))
    return rows


def row(known: dict[str, Any], asked: Asked, score: float, **given: Any) -> dict[str, Any]:
    """Build one row; a score of 0 to 1 becomes what the question's metric would be."""
    value = asked.shift + asked.scale * score
    if asked.metric == "within":
        value = max(value, 0.01) ** 0.5
    lowest = 0.02 if asked.metric in ("epe", "accuracy", "purity", "nmi") else -9.0
    value = max(value, lowest)
    floor = known["kind"] == "floor" and known["floor_of"] is None
    half = asked.half * (1.7 if given.get("split") == "unseen" else 1)
    return {
        **known,
        "reading": "" if floor else "pair",
        "seeds": [0, 1],
        "probe": asked.probe,
        "target": asked.target,
        "group": asked.group,
        "frame": "camera" if asked.probe == "action" else "",
        "readout": asked.readouts[0],
        "gap": 5,
        "split": "test",
        "condition": "",
        "labels": 1.0,
        "metric": asked.metric,
        "better": "lower" if asked.metric == "epe" else "higher",
        "value": value,
        "low": value - half,
        "high": value + half,
        "chance": asked.chance,
        "tolerance": GROUPS[asked.group][1] if asked.group in GROUPS else None,
        "episodes": 52 if given.get("split") == "unseen" else 24,
        "samples": 912,
        "dims": 0 if known["representation"] == "copy" else 192,
        "penalty": None if known["representation"] == "copy" else 0.1,
        **given,
    }


def _paired(splits: tuple[str, ...]) -> list[dict[str, Any]]:
    names = list(METHODS)
    differences = ((0, 1, 0.07, 0.03, 0.008), (0, 2, 0.15, 0.04, 0.0001), (1, 2, 0.08, 0.1, 0.11))
    return [
        {
            "a": names[a],
            "b": names[b],
            "probe": "action",
            "target": "displacement",
            "group": "position",
            "frame": "camera",
            "readout": "linear",
            "gap": gap,
            "split": split,
            "metric": "r2",
            "better": "higher",
            "difference": value,
            "low": value - half,
            "high": value + half,
            "p": p,
            "p_holm": min(3 * p, 1.0),
        }
        for a, b, value, half, p in differences
        for gap in (1, 5, 10)
        for split in splits
    ]


def extras(folder: Path) -> dict[str, Any]:
    """Build what may be absent: planes, confusions, diagnostics, flow pictures, an ablation."""
    rng = np.random.default_rng(3)
    tasks = ["reach", "push", "pick and place", "open the door", "open the drawer"]
    label = np.arange(300) % len(tasks)
    projections, confusions = [], []
    for name, score in METHODS.items():
        centres = 9 * score * rng.normal(size=(len(tasks), 2))
        for method in ("PCA", "t-SNE"):
            points = centres[label] + rng.normal(size=(300, 2))
            projections.append(
                {
                    "representation": name,
                    "method": method,
                    "labels": tasks,
                    "label": label.tolist(),
                    "x": points[:, 0].tolist(),
                    "y": points[:, 1].tolist(),
                }
            )
        counts = rng.integers(0, 9, (6, 6)) + np.eye(6, dtype=int) * int(90 * score)
        confusions.append(
            {
                "representation": name,
                "probe": "order",
                "target": "six orders",
                "split": "test",
                "gap": 5,
                "labels": ["123", "132", "213", "231", "312", "321"],
                "counts": counts.tolist(),
            }
        )
    alive = {"std": 0.31, "effective_rank": 41.7, "mean_cosine": 0.22, "norm": 4.31, "dims": 192}
    dead = {"std": 0.0004, "effective_rank": 1.3, "mean_cosine": 0.999, "norm": 4.0, "dims": 192}
    imsave(folder / "flow.png", np.concatenate([scene(48), scene(70), scene(60)], 1))
    return {
        "projections": projections,
        "confusions": confusions,
        "diagnostics": [
            *({"representation": name, "features": alive} for name in METHODS),
            {"representation": "random video-mae", "features": dead},
        ],
        "flow_pictures": {"two-stream strong: picture, truth, read": "flow.png"},
        "ablation": [
            {
                "axis": axis,
                "value": value,
                "cell": f"two-stream strong {axis}={value}",
                "probe": "action",
                "group": "position",
                "gap": 5,
                "split": split,
                "metric": "r2",
                "difference": difference,
                "low": difference - 0.04,
                "high": difference + 0.04,
                "p_holm": 0.0004 if abs(difference) > 0.05 else 0.6,
            }
            for axis, value, difference in (
                ("m_only", "on", -0.09),
                ("p_only", "on", -0.21),
                ("mask_ratio", "0.5", 0.01),
                ("gap_law", "uniform", -0.02),
            )
            for split in ("test", "unseen")
        ],
    }
