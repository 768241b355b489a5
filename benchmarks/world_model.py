"""Energies of candidate actions: ours against the official notebook's way, on the same weights.

The predictor has random weights, large enough that actions matter, and looks at one frame. A
landscape is the energy of every action of a cube; a CEM step draws actions, finds their energies
and fits a mean to the best. ``peers/notebook_way.py`` says what the peer does; before
anything is timed, both must find the same energies or mean, in float32.

Peak memory is that of a fresh process, for two steps ahead: resident on a CPU, allocated on a GPU.
``--cases gpu`` says what the paper's plan (800 samples, 10 iterations) and a landscape of 625
actions take, and which share of the card's own matrix product (measured) is reached.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from statistics import median
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
import tyro
from peers.notebook_way import NotebookWay
from timing import Work, emit, measure, ratio
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from saccade.evals.energy import ImaginedEnergy
from saccade.evals.landscape import grid
from saccade.evals.planners import CemConfig, Space, generator_of
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictor, ActionPredictorConfig
from saccade.models.world_model import ActionWorldModel, ActionWorldModelConfig
from saccade.train.evaluate import autocast
from saccade.train.log import peak_memory_mb

Case = Literal["landscape", "cem", "memory", "gpu"]
Variant = Literal["ours", "peer"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
SIZES = {
    "tiny": ActionPredictorConfig(grid=(4, 4), feature_dim=32, dim=48, depth=2, heads=2, mlp=96),
    "small": ActionPredictorConfig(feature_dim=192, dim=192, depth=4, heads=3, mlp=768),
    "medium": ActionPredictorConfig(feature_dim=384, dim=384, depth=6, heads=6, mlp=1536),
    "full": ActionPredictorConfig(),
}
SAME = 1e-5  # of energies near 1
SHARE = 0.05  # of what candidates differ by
PLAN = (800, 10)  # samples and iterations of the paper
HEAVY = ["saccade.models.world_model", "saccade.evals.planners", "peers.notebook_way"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time landscapes and planning.

    Args:
        cases: what to measure.
        size: of the predictor; ``full`` is that of V-JEPA 2-AC.
        steps: values along each side of a landscape: 5 is 125 actions.
        samples: of a CEM step.
        horizons: actions of one candidate; a landscape repeats one.
        candidates: of the peaks of memory.
        repeats: rounds; each variant gets one slice of each.
        device: where to compute.
        precision: bfloat16 is autocast over float32 weights.
    """

    cases: tuple[Case, ...] = ("landscape", "cem", "memory")
    size: Literal["tiny", "small", "medium", "full"] = "small"
    steps: tuple[tuple[int, int, int], ...] = ((5, 5, 5),)
    samples: int = 64
    horizons: tuple[int, ...] = (1, 2)
    candidates: tuple[int, ...] = (125, 400)
    repeats: int = 7
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"


class Bench:
    """One model, one frame and one goal, for ours and for the peer."""

    def __init__(self, options: Options) -> None:
        self.options, shape = options, SIZES[options.size]
        torch.manual_seed(0)
        predictor = shape.build()
        draw_weights(predictor)
        encoder = VJepa2Config(
            image_size=16 * shape.grid[0], dim=shape.feature_dim, depth=1, heads=1, mlp=8
        )
        config = ActionWorldModelConfig(encoder=encoder, predictor=shape, step_seconds=0.25)
        model = ActionWorldModel(config, encoder.build(), predictor)
        self.model = model.eval().to(options.device)
        rows = (shape.grid[0] * shape.grid[1], shape.feature_dim)
        drawn = torch.randn(2, *rows, device=options.device)
        self.features, self.goal = F.layer_norm(drawn, rows[1:]).split((1, 1))
        self.pose = torch.tensor([[0.4, 0.0, 0.3, 3.0, 0.1, -1.9, 0.9]], device=options.device)
        self.peer = NotebookWay(predictor)

    @cached_property
    def energy(self) -> ImaginedEnergy:
        context = self.model.look(self.features, self.pose, self.pose[:0])
        return ImaginedEnergy(self.model, context, self.goal[0])

    def landscape(self, variant: Variant, actions: Tensor, horizon: int = 1) -> Tensor:
        """Return energies, each action repeated over the horizon."""
        if variant == "ours":
            return self.energy(actions[:, None].expand(-1, horizon, -1))
        return self.peer.landscape(self.features, self.pose, self.goal[0], actions, horizon)

    def cem(self, variant: Variant, samples: int, horizon: int) -> Tensor:
        """Return mean and deviation after one step; both draw the same numbers."""
        planner = CemConfig(
            horizon=horizon,
            samples=samples,
            iterations=1,
            elites=min(10, samples),
            momentum_mean=0.0,
            momentum_spread=0.0,
            momentum_mean_gripper=0.0,
            momentum_spread_gripper=0.0,
        )
        space = planner.limits.space(self.model.action_names, horizon)
        space = Space(*(part.to(self.pose.device) for part in space))
        start, generator = torch.zeros_like(space.limit), generator_of(0)
        if variant == "ours":
            return planner.search(self.energy, space, start, generator)[0]
        drawn = space.clip(space.draw(samples, generator) * space.spread)
        steps = list(drawn.unbind(1))
        given = (self.features, self.pose, self.goal[0], steps, planner.elites)
        return self.peer.cem_step(*given)[0]

    def work(self, run: Callable[[], Tensor], amount: int) -> Work:
        """Return a slice of a benchmark: some candidates."""
        device = torch.device(self.options.device)

        def once() -> int:
            with torch.no_grad(), autocast(self.options.precision, device):
                run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return amount

        return once

    def compare(self, case: Case, amount: int, horizon: int, run: Callable[..., Tensor]) -> None:
        """Check that both find the same, then time them."""
        options = self.options
        with torch.no_grad():  # whatever is timed then, these are float32
            ours, peer = (run(variant) for variant in VARIANTS)
        require_same(ours, peer)
        works = {variant: self.work(lambda v=variant: run(v), amount) for variant in VARIANTS}
        rates = measure(works, options.repeats)
        emit(
            {
                "benchmark": "world_model",
                "case": case,
                "unit": "candidates/s",
                "candidates": amount,
                "horizon": horizon,
                "ours": median(rates["ours"]),
                "peer": "all in one batch, nothing remembered, SciPy",
                "peer_candidates_per_second": median(rates["peer"]),
                "ratio": ratio(rates["ours"], rates["peer"]),
                "apart": float((ours - peer).abs().max()),
                "spread": float(ours.std()),
                **described(options),
            }
        )


@torch.no_grad()
def draw_weights(predictor: ActionPredictor) -> None:
    """Draw weights under which every block and a few centimetres matter, unlike fresh ones."""
    for layer in predictor.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    torch.nn.init.normal_(predictor.action_encoder.weight, std=30.0)


def require_same(ours: Tensor, peer: Tensor) -> None:
    """Refuse results that differ, or that differ as much as candidates do, which shows nothing."""
    apart, spread = float((ours - peer).abs().max()), float(ours.std())
    if not apart <= SAME or not apart < SHARE * spread:
        raise ValueError(
            f"ours and the peer are {apart:.2g} apart, where candidates vary by {spread:.2g}; at "
            f"most {SAME:g} and {SHARE:.0%} of that are rounding: they compute different things"
        )


def described(options: Options) -> dict[str, Any]:
    shape = SIZES[options.size]
    sizes = {"dim": shape.dim, "depth": shape.depth, "heads": shape.heads, "mlp": shape.mlp}
    return {
        "device": options.device,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "sizes": sizes | {"grid": list(shape.grid), "feature_dim": shape.feature_dim},
    }


def cube(steps: tuple[int, int, int], device: str) -> Tensor:
    """Return the actions of a landscape along x, y and z."""
    cells = torch.from_numpy(grid(steps=steps).cells)
    return F.pad(cells, (0, 4)).to(device, torch.float32)


def peak_mb(variant: Variant, candidates: int, options: Options) -> float:
    """Return the most memory of energies two steps ahead; for a process that did nothing else."""
    bench = Bench(options)
    actions = torch.linspace(-0.07, 0.07, candidates * 7, device=options.device).view(-1, 7)
    bench.work(lambda: bench.landscape(variant, actions, 2), candidates)()
    return peak_memory_mb(torch.device(options.device))


def memory(options: Options) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as fresh:
        peaks = {
            str(count): {v: fresh.submit(peak_mb, v, count, options).result() for v in VARIANTS}
            for count in options.candidates
        }
    result = {"benchmark": "world_model_memory", "horizon": 2, "peak_mb": peaks}
    emit(result | described(options))


def seconds(work: Work, repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def gpu(bench: Bench) -> None:
    """Say what a plan and a landscape take, and how near that is to matrix products alone."""
    options, (samples, iterations) = bench.options, PLAN
    actions, wide = cube((25, 5, 5), options.device), SIZES[options.size]
    kind = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    a = torch.randn(2**14, wide.dim, device=options.device, dtype=kind)
    b = torch.randn(wide.dim, wide.mlp, device=options.device, dtype=kind)
    product = 2 * len(a) * b.numel() / seconds(bench.work(lambda: a @ b, 1), options.repeats)
    landscape = bench.work(lambda: bench.landscape("ours", actions), len(actions))
    with FlopCounterMode(display=False) as counter:
        landscape()
    taken = seconds(landscape, options.repeats)
    plan = bench.work(lambda: bench.cem("ours", samples, 1), samples)
    emit(
        {
            "benchmark": "world_model_seconds",
            "plan": {"samples": samples, "iterations": iterations, "horizon": 1},
            "plan_seconds": iterations * seconds(plan, options.repeats),
            "landscape_candidates": len(actions),
            "landscape_seconds": taken,
            "tflops": counter.get_total_flops() / taken / 1e12,
            "matmul_tflops": product / 1e12,
            "share_of_matmul": counter.get_total_flops() / taken / product,
            **described(options),
        }
    )


def main(options: Options) -> None:
    if "memory" in options.cases:
        memory(options)
    bench = Bench(options)
    if "landscape" in options.cases:
        for steps in options.steps:
            actions = cube(steps, options.device)
            for horizon in options.horizons:
                bench.compare(
                    "landscape",
                    len(actions),
                    horizon,
                    lambda v, a=actions, h=horizon: bench.landscape(v, a, h),
                )
    if "cem" in options.cases:
        many = options.samples
        for horizon in options.horizons:
            bench.compare("cem", many, horizon, lambda v, h=horizon: bench.cem(v, many, h))
    if "gpu" in options.cases:
        gpu(bench)


if __name__ == "__main__":
    main(tyro.cli(Options))
