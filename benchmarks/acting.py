"""What acting costs: a policy's answer, and the simulator's steps.

``latency``: milliseconds from an observation to a chunk of commands on one thread, of StateVLA as
the documents have it (``original``: 224 pixels, 12 Mamba layers) or of the recipe for a CPU
(``tiny``). The floor is its encoder alone: what is above it is the price of drawing the chunk.

``simulator``: steps per second of one LIBERO scene when a policy with chunks of ten looks once per
chunk. The peer is LIBERO's own ``OffScreenRenderEnv``, which draws both cameras at every step.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
import tyro
from timing import Work, emit, measure, ratio

from saccade.models.language import HashLanguageConfig
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.flow import FlowHead, FlowHeadConfig
from saccade.models.policies.policy import ImitationPolicy, ImitationPolicyConfig
from saccade.models.state_encoder import StateEncoderConfig
from saccade.recipes.statevla import TINY_ENCODER
from saccade.types import Observation

CHUNK = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a policy and a simulator.

    Args:
        cases: what to measure.
        sizes: of the policy.
        steps: of Euler, from noise to commands.
        size: height and width of the simulator's pictures.
        assets: folder or archive of LIBERO's assets, where they are not installed.
        repeats: rounds; each variant gets one slice of each.
    """

    cases: tuple[Literal["latency", "simulator"], ...] = ("latency", "simulator")
    sizes: tuple[Literal["original", "tiny"], ...] = ("original", "tiny")
    steps: int = 4
    size: int = 128
    assets: Path | None = None
    repeats: int = 7


def policy(size: str) -> ImitationPolicy:
    """Build a policy with random weights; how fast it answers does not depend on them."""
    encoder = StateEncoderConfig(language=HashLanguageConfig())
    head = FlowHeadConfig()
    if size == "tiny":
        encoder, head = TINY_ENCODER, FlowHeadConfig(dim=128, state=16, hidden=128)
    config = ImitationPolicyConfig(condition=StateConditionConfig(encoder=encoder), head=head)
    built = config.build().eval()
    spread = [
        value(size)
        for size in (len(config.action_names), built.condition.state_size)
        for value in (torch.zeros, torch.ones)
    ]
    built.set_statistics(*spread)
    return built


def latency(size: str, options: Options) -> None:
    torch.set_num_threads(1)
    acting = policy(size)
    side = acting.condition.preprocessing.image_size
    seen = Observation(
        video=torch.randint(0, 256, (1, 1, 2, 3, side, side), dtype=torch.uint8),
        state=torch.randn(1, 1, acting.condition.state_size),
        text=["pick up the milk and place it in the basket"],
    )
    assert isinstance(acting.head, FlowHead)
    acting.head.steps = options.steps
    spent: dict[str, list[float]] = {"whole": [], "encoder": []}
    with torch.inference_mode():
        work = {"whole": lambda: acting.act(seen), "encoder": lambda: acting.condition(seen)}
        for each in work.values():
            each()
        for _ in range(max(options.repeats, 3)):
            for name, each in work.items():
                start = time.perf_counter()
                each()
                spent[name].append(1000 * (time.perf_counter() - start))
    whole, encoder = median(spent["whole"]), median(spent["encoder"])
    emit(
        {
            "benchmark": "policy_latency",
            "unit": "ms/chunk",
            "ours": whole,
            "peer": "its encoder alone",
            "peer_ms": encoder,
            "ratio": whole / encoder,
            "commands_per_second": 1000 * CHUNK / whole,
            "sizes": {"policy": size, "image_size": side, "steps": options.steps, "chunk": CHUNK},
        }
    )


def simulator(options: Options) -> None:
    from saccade.sim.libero.suite import LiberoSuite

    suite = LiberoSuite("libero_object", options.assets)
    scene = suite.open(suite.tasks[0])
    scene.reset(0, seed=0)
    still = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    def steps(drawn: bool) -> Work:
        def work() -> int:
            if drawn:
                for camera in scene.cameras:
                    scene.render(camera, options.size, options.size)
            for _ in range(CHUNK):
                scene.step(still)
            return CHUNK

        return work

    from libero.libero.envs import OffScreenRenderEnv

    theirs = OffScreenRenderEnv(
        bddl_file_name=str(scene.bddl), camera_heights=options.size, camera_widths=options.size
    )
    theirs.seed(0)
    theirs.reset()

    def peer() -> int:
        theirs.env.sim._render_context_offscreen.gl_ctx.make_current()  # ours was
        theirs.step([0.0] * 6 + [-1.0])
        return 1

    work = {"ours": steps(True), "blind": steps(False), "peer": peer}
    rates = measure(work, options.repeats)
    scene.close()
    theirs.close()
    emit(
        {
            "benchmark": "libero_steps",
            "unit": "steps/s of one worker",
            "ours": median(rates["ours"]),
            "peer": "OffScreenRenderEnv, two cameras at every step",
            "peer_steps_per_second": median(rates["peer"]),
            "ratio": ratio(rates["ours"], rates["peer"]),
            "without_pictures": median(rates["blind"]),
            "sizes": {"image_size": options.size, "cameras": 2, "steps_per_look": CHUNK},
        }
    )


def main(options: Options) -> None:
    if "latency" in options.cases:
        for size in options.sizes:
            latency(size, options)
    if "simulator" in options.cases:
        simulator(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
