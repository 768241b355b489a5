"""The selective scan, forward and backward: ours against mambapy's and transformers'.

One line for each of ours, eager and compiled (``torch.compile``, which takes a C++ compiler and
some ten seconds, untimed). Before anything is timed, outputs and gradients are compared with
float64; ``error`` is the largest difference, in shares of the largest value of that gradient. Peak
memory is what PyTorch's allocator hands out at once for one scan. Peers:

    mambapy       a parallel scan in PyTorch (``pip install mambapy``)
    transformers  its loop over time, used where no kernel is; 45 seconds a run at full size, so
                  only ``--transformers`` runs it, once, against the median of ours

``floor`` is the encoder of 12 layers against itself with the scan left out. ``load`` is that of
the machine: neighbours slow what waits for memory more than what computes, so peers too.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from timing import Work, emit, measure, ratio
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from saccade.nn import mamba
from saccade.nn.mamba import MambaStack
from saccade.nn.selective_scan import How, selective_scan

Scan = Callable[..., Tensor]
SAME = 1e-5  # of the largest gradient; float32 keeps 1e-6


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the selective scan and the encoder that is made of it.

    Args:
        cases: what to measure.
        hows: of ours.
        batch: sequences.
        length: tokens of each.
        dim: of a token; the scan is twice as wide.
        state: numbers that a channel remembers.
        depth: layers of the encoder.
        repeats: rounds; each variant gets one slice of each.
        transformers: time its loop too.
    """

    cases: tuple[Literal["scan", "floor"], ...] = ("scan", "floor")
    hows: tuple[Literal["eager", "compiled"], ...] = ("eager", "compiled")
    batch: int = 8
    length: int = 395
    dim: int = 256
    state: int = 16
    depth: int = 12
    repeats: int = 7
    transformers: bool = False


def inputs(options: Options) -> list[Tensor]:
    """Draw x, dt, a, b, c and d as a trained layer would make them, and learn them all."""
    torch.manual_seed(0)
    batch, width = (options.batch, options.length), 2 * options.dim
    a = -torch.arange(1.0, options.state + 1).repeat(width, 1)
    drawn = [
        torch.randn(*batch, width),
        F.softplus(torch.randn(*batch, width) - 4),
        a * torch.randn_like(a).mul(0.1).exp(),
        torch.randn(*batch, options.state),
        torch.randn(*batch, options.state),
        torch.ones(width),
    ]
    return [value.requires_grad_() for value in drawn]


def ours(how: How) -> Scan:
    return lambda *given: selective_scan(*given, how=how)


def mambapy(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    from mambapy.pscan import pscan  # pyright: ignore[reportMissingImports]

    states = pscan(torch.exp(dt[..., None] * a), (dt * x)[..., None] * b[:, :, None])
    return (states @ c[..., None])[..., 0] + d * x


def transformers(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    found = mamba_selective_scan(x.mT, dt.mT, a, b.mT, c.mT, d)
    assert isinstance(found, Tensor)
    return found.mT


def loop(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The definition, one step after the other."""
    h, ys = x.new_zeros(len(x), *a.shape), []
    for x_t, dt_t, b_t, c_t in zip(*(z.unbind(1) for z in (x, dt, b, c)), strict=True):
        h = torch.exp(dt_t[..., None] * a) * h + (dt_t * x_t)[..., None] * b_t[:, None]
        ys.append((h @ c_t[..., None])[..., 0] + d * x_t)
    return torch.stack(ys, 1)


def both_ways(scan: Scan, given: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the output and the gradients of the sum of its halved squares."""
    y = scan(*given)
    return y, *torch.autograd.grad(y, given, y.detach())


def error(scan: Scan, options: Options) -> float:
    """Return how far float32 is from the definition in float64, on one sequence.

    Raises:
        ValueError: too far for rounding: it computes something else.
    """
    few = Options(batch=1, length=options.length, dim=options.dim, state=options.state)
    given = inputs(few)
    exact = both_ways(loop, [z.detach().double().requires_grad_() for z in given])
    found = both_ways(scan, given)
    pairs = zip(found, exact, strict=True)
    worst = max(float((f - e).detach().abs().max() / e.detach().abs().max()) for f, e in pairs)
    if not worst <= SAME:
        raise ValueError(f"a scan is {worst:.2g} of its largest value from float64, not {SAME:g}")
    return worst


def work(scan: Scan, given: list[Tensor]) -> Work:
    def once() -> int:
        both_ways(scan, given)
        return 1

    return once


def peak_mib(scan: Scan, given: list[Tensor]) -> float:
    """Return the most that the allocator hands out at once for one scan, beside its inputs."""
    both_ways(scan, given)  # imports, compiles
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        both_ways(scan, given)
    results = found.profiler.kineto_results if found.profiler is not None else None
    assert results is not None
    changes: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in changes)) / 2**20


VARIANTS: dict[str, Scan] = {
    "eager": ours("eager"),
    "compiled": ours("compiled"),
    "mambapy": mambapy,
    "transformers": transformers,
}


def described(options: Options) -> dict[str, Any]:
    sizes = {name: getattr(options, name) for name in ("batch", "length", "dim", "state")}
    return {
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "load": os.getloadavg()[0],
        "sizes": sizes,
    }


def scans(options: Options) -> None:
    """Compare the scans: one line for each of ours."""
    here = importlib.util.find_spec("mambapy") is not None
    names = [*options.hows, *(["mambapy"] if here else [])]
    errors = {name: error(VARIANTS[name], options) for name in names}
    given = inputs(options)
    peaks = {name: peak_mib(VARIANTS[name], given) for name in names}
    rates = measure({name: work(VARIANTS[name], given) for name in names}, options.repeats)
    slow = 0.0
    if options.transformers:
        both_ways(transformers, inputs(Options(dim=options.dim, length=2)))  # imports
        start = time.perf_counter()
        both_ways(transformers, given)
        slow = time.perf_counter() - start
    for how in options.hows:
        rate = median(rates[how])
        emit(
            {
                "benchmark": "mamba_scan",
                "how": how,
                "unit": "scans/s, forward and backward",
                "ours": rate,
                "peer": "mambapy" if here else "mambapy is not installed: pip install mambapy",
                "peer_scans_per_second": median(rates["mambapy"]) if here else None,
                "ratio": ratio(rates[how], rates["mambapy"]) if here else None,
                "transformers_seconds": slow or None,
                "ratio_transformers": rate * slow or None,
                "error": errors[how],
                "peak_mib": {name: peaks[name] for name in names if name in (how, "mambapy")},
                **described(options),
            }
        )


def no_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Use every input once, so that all the rest of a layer is computed, and its gradients."""
    return x * d + dt * (b * c).sum(-1, keepdim=True) + x * a.sum()


def floor(options: Options) -> None:
    """Compare the encoder with itself without the scan: one line for each of ours."""
    torch.manual_seed(0)
    model = MambaStack(options.dim, options.depth, options.state)
    tokens = torch.randn(options.batch, options.length, options.dim)

    def step(scan: Scan) -> Work:
        def once() -> int:
            mamba.selective_scan = scan
            model(tokens).square().mean().backward()
            model.zero_grad()
            return 1

        return once

    variants: dict[str, Scan] = {how: VARIANTS[how] for how in options.hows}
    works = {name: step(scan) for name, scan in (variants | {"floor": no_scan}).items()}
    try:
        rates = measure(works, options.repeats)
    finally:
        mamba.selective_scan = selective_scan
    for how in options.hows:
        emit(
            {
                "benchmark": "mamba_floor",
                "how": how,
                "unit": "encoder steps/s, forward and backward",
                "ours": median(rates[how]),
                "peer": "the same without the scan",
                "peer_steps_per_second": median(rates["floor"]),
                "times_the_floor": ratio(rates["floor"], rates[how]),
                "depth": options.depth,
                **described(options),
            }
        )


def main(options: Options) -> None:
    if "scan" in options.cases:
        scans(options)
    if "floor" in options.cases:
        floor(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
