"""Results of a landscape study of toy worlds: one that is right, and one that turns round."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from saccade.evals.planning import moments
from saccade.experiments.energy import keep_pictures
from saccade.experiments.energy_exploring import Asked, controls_of, entry, explore, judged
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.moments import Recorded, Scene
from tests.evals.toy_arm import REST, SAWYER, ToyWorld

FULL = GridsConfig(steps=(3,), widen=(1.0, 2.0), slices=(("z", "gripper"),), slice_steps=3)
LEAN = GridsConfig(axes=("x",), steps=(3,), widen=(1.0,), slices=(), sweep_steps=0)


def landscape_results(folder: Path, grids: GridsConfig = FULL) -> dict[str, Any]:
    """Results as the study writes them; pictures lie in ``folder``."""
    models = {"base": ToyWorld(SAWYER), "turned": ToyWorld(SAWYER, turn=-torch.eye(3))}
    asked = Asked(grids.resolve(SAWYER), "l1", 2.0, 1, 20, 0)
    seen = scenes(models["base"])
    aside = controls_of(seen, SAWYER, 0)
    explored = {name: explore(model, seen, aside, asked, name) for name, model in models.items()}
    step = 500 if grids is FULL else None  # without it no curves over training
    entries = [
        entry("base", explored["base"], None, asked),
        entry("turned", explored["turned"], explored["base"], asked, step),
    ]
    return {
        "kind": "landscape",
        "format": 1,
        "title": "Energy landscapes of a toy",
        "created": "2026-01-01T00:00:00+00:00",
        "commands": ["saccade energy --model toy"],
        "versions": {"python": "3"},
        "machine": {
            "cpu": "toy", "cores": 1, "memory_gb": 1.0, "accelerator": None, "platform": "toy",
        },
        "commit": None,
        "model": {
            "path": "toy", "digest": "0" * 16, "encoder": "Toy", "encoder_parameters": 1,
            "predictor_parameters": 1, "step_seconds": 0.25, "crop": "square",
            "gripper": "open_is_1", "state_names": list(SAWYER), "action_names": list(SAWYER),
            "device": "cpu", "precision": "float32",
        },
        "adapters": [{"name": "turned", "path": "runs/turned", "digest": "1" * 16, "record": {}}],
        "data": {
            "path": "toy", "fingerprint": "toy", "camera": "front", "crop": "square",
            "fps": 4.0, "step_seconds": 0.25, "part": "test", "split_seed": 0, "context": 1,
            "horizon": 1, "episodes": 5, "moments": 5,
        },
        "settings": {},
        **judged(entries, Recorded(seen, None, {}), asked),
        "skipped": aside.skipped,
        "pictures": keep_pictures(seen, 1, folder),
        "seconds": {"all": 1.0},
    }  # fmt: skip


def scenes(model: ToyWorld) -> list[Scene]:
    """Five episodes of one step each, with pictures of noise."""
    rng, made = np.random.default_rng(1), []
    for episode in range(5):
        step = torch.from_numpy(np.append(rng.uniform(-0.07, 0.07, 3), 0.1)).float()[None]
        rest = REST[[0, 1, 2, 6]]
        states = torch.stack([rest, model.moved(rest, step[0])])
        (moment,) = moments(model.see(states).detach(), states, step, episode)
        pixels = torch.from_numpy(rng.integers(0, 256, (2, 3, 8, 8), np.uint8))
        made.append(Scene(moment, states[-1], pixels[0], pixels[1]))
    return made
