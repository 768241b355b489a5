"""The selective scan of Mamba-1, forward and backward, in memory that one chunk bounds.

    h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t        y_t = <c_t, h_t> + d x_t

The states of all steps are never kept: forward keeps the one before each chunk, and backward
computes a chunk's states once more. States are float32 (float64 for float64 inputs) whatever the
inputs are. There are three ways to compute a chunk:

    eager     plain PyTorch, step by step; works everywhere and starts at once
    compiled  the same with ``torch.compile``: 2 to 3 times faster, after some ten seconds
    kernel    mamba-ssm's own for GPUs, where that package is installed

``auto`` is what the environment variable SACCADE_SCAN says, else the kernel on a GPU that has it,
else eager.

Gu and Dao, 2023, https://arxiv.org/abs/2312.00752
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saccade.errors import ConfigError

T = TypeVar("T")
How = Literal["auto", "eager", "compiled", "kernel"]
PART = 4  # steps that are compiled as one
PARTS = 14  # of a call; 7 calls are the 395 tokens of StateVLA's encoder, but for 3
SHAPES = 64  # batches of as many sizes can be compiled for; torch would give up after 8
KERNEL = "mamba_ssm.ops.selective_scan_interface"


class Ways(NamedTuple):
    """How chunks of at most ``most`` steps are computed, in parts of ``part`` steps.

    Tensors of a chunk are ``[q, b, _]``, time first: views of whole ones, of any strides and type;
    states, ``a`` and ``d`` are wide. ``forward(h, x, dt, a, b, c, d, y)`` fills y and returns the
    state after it and those before each part. ``backward(g, hs, ga, gd, x, dt, a, b, c, d, gy, gx,
    gdt, gb, gc)`` takes the gradient of the state after it, fills the gradients of x, dt, b and c,
    and returns that of the state before it, and ``ga`` and ``gd`` with what this chunk adds.
    """

    most: int
    part: int
    forward: Callable[..., tuple[Tensor, list[Tensor]]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def selective_scan(
    x: Float[Tensor, "b l e"],
    dt: Float[Tensor, "b l e"],
    a: Float[Tensor, "e n"],
    b: Float[Tensor, "b l n"],
    c: Float[Tensor, "b l n"],
    d: Float[Tensor, " e"],
    h: Float[Tensor, "b e n"] | None = None,
    *,
    how: How = "auto",
) -> Float[Tensor, "b l e"]:
    """Return ``y``, in the type of ``x``; ``h`` is the state before the first step, default zero.

    Raises:
        ConfigError: this machine cannot compute it in the way that is asked for.
    """
    return scan_with_state(x, dt, a, b, c, d, h, how=how)[0]


def scan_with_state(
    x: Float[Tensor, "b l e"],
    dt: Float[Tensor, "b l e"],
    a: Float[Tensor, "e n"],
    b: Float[Tensor, "b l n"],
    c: Float[Tensor, "b l n"],
    d: Float[Tensor, " e"],
    h: Float[Tensor, "b e n"] | None = None,
    *,
    how: How = "auto",
) -> tuple[Float[Tensor, "b l e"], Float[Tensor, "b e n"]]:
    """Return ``y`` and the state after the last step, as ``selective_scan`` does.

    Raises:
        ConfigError: this machine cannot compute it in the way that is asked for.
    """
    way = _chosen(how, x, h)
    if way == "kernel":
        return _kernel(x, dt, a, b, c, d)
    if h is None:
        h = x.new_zeros(x.shape[0], *a.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    ways = EAGER if way == "eager" else _compiled()
    with torch.autocast(x.device.type, enabled=False):
        y, state = cast(tuple[Tensor, Tensor], _Scan.apply(x, dt, a, b, c, d, h, ways))
    return y, state


def _chosen(how: str, x: Tensor, h: Tensor | None) -> str:
    """Settle what ``auto`` means here, and refuse what cannot be."""
    source = "how"
    if how == "auto":
        how, source = os.environ.get("SACCADE_SCAN", "auto"), "SACCADE_SCAN"
    if how not in get_args(How):
        raise ConfigError(f"{source} is {how!r}, expected one of {', '.join(get_args(How))}")
    fits = x.is_cuda and x.dtype != torch.float64 and h is None
    if how == "auto":
        return "kernel" if fits and _has_kernel() else "eager"
    if how == "kernel" and not fits:
        raise ConfigError(
            f"{source} is 'kernel', which starts from a zero state on a GPU in at most float32; "
            f"found {x.dtype} on {x.device}{' and a state' if h is not None else ''}: use 'auto'"
        )
    return how


class _Scan(torch.autograd.Function):
    """``y`` and the last state; what is kept for backward is one state a chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        h: Tensor,
        ways: Ways,
    ) -> tuple[Tensor, Tensor]:
        x, dt, b, c = (z.contiguous() for z in (x, dt, b, c))
        wide, y, kept = torch.promote_types(x.dtype, torch.float32), torch.empty_like(x), []
        at, state, wide_d = a.t().to(wide).contiguous(), h.mT.to(wide).contiguous(), d.to(wide)
        for way, xs, dts, bs, cs, ys in _chunks(ways, x, dt, b, c, y):
            state, states = way.forward(state, xs, dts, at, bs, cs, wide_d, ys)
            if any(ctx.needs_input_grad):
                kept.append(states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dt, a, at, b, c, d, *(one for states in kept for one in states))
        ctx.ways, ctx.kind, ctx.counts = ways, h.dtype, [len(states) for states in kept]
        return y, state.mT.to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] of once_differentiable
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        gy, gh = grad_outputs
        x, dt, a, at, b, c, d, *kept = ctx.saved_tensors
        gy = torch.zeros_like(x) if gy is None else gy.contiguous()
        g = torch.zeros_like(kept[0]) if gh is None else gh.mT.to(at.dtype).contiguous()
        found = gx, gdt, gb, gc = [torch.empty_like(z) for z in (x, dt, b, c)]
        ga, gd, wide_d = torch.zeros_like(g), torch.zeros_like(d, dtype=at.dtype), d.to(at.dtype)
        chunks = _chunks(ctx.ways, x, dt, b, c, gy, *found)
        for count, (way, xs, dts, bs, cs, *rest) in zip(
            ctx.counts[::-1], chunks[::-1], strict=True
        ):
            states, kept = kept[-count:], kept[:-count]
            g, ga, gd = way.backward(g, states, ga, gd, xs, dts, at, bs, cs, wide_d, *rest)
        return gx, gdt, ga.sum(0).t().to(a.dtype), gb, gc, gd.to(d.dtype), g.mT.to(ctx.kind), None


def _chunks(ways: Ways, *whole: Tensor) -> list[tuple[Any, ...]]:
    """Cut tensors ``[b, l, _]`` into views, time first, each with the way to compute it.

    What is left after the last whole part is computed eagerly: nothing is compiled for it.
    """
    count, rest = divmod(whole[0].shape[1], ways.most)
    broken = rest % ways.part
    sizes = [size for size in (*[ways.most] * count, rest - broken, broken) if size]
    chosen = [ways if size % ways.part == 0 else EAGER for size in sizes]
    return list(zip(chosen, *(z.transpose(0, 1).split(sizes) for z in whole), strict=True))


def _eager_forward(
    h: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, y: Tensor
) -> tuple[Tensor, list[Tensor]]:
    before = h
    x, dt, b, c = (z.to(h.dtype) for z in (x, dt, b, c))
    h, decay, summed = h.clone(), torch.empty_like(h), h.new_empty(len(x), len(h), 1, h.shape[2])
    steps = (dt[:, :, None], (dt * x)[:, :, None], b[..., None], c[:, :, None], summed)
    for dt_t, u_t, b_t, c_t, summed_t in zip(*(z.unbind() for z in steps), strict=True):
        torch.mul(dt_t, a, out=decay)
        h.mul_(decay.exp_()).addcmul_(b_t, u_t)
        torch.bmm(c_t, h, out=summed_t)
    y.copy_(summed[:, :, 0].addcmul_(x, d))
    return h, [before]


def _eager_backward(
    g: Tensor,
    hs: list[Tensor],
    ga: Tensor,
    gd: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    gy: Tensor,
    *found: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    x, dt, b, c, gy = (z.to(g.dtype).contiguous() for z in (x, dt, b, c, gy))
    u, h, g, ga = dt * x, hs[0].clone(), g.clone(), ga.clone()
    decay = (dt[:, :, None] * a).exp_()
    carried, adjoint = torch.empty_like(decay), torch.empty_like(decay)
    steps = (carried, decay, b[..., None], u[:, :, None])
    for carried_t, decay_t, b_t, u_t in zip(*(z.unbind() for z in steps), strict=True):
        torch.mul(h, decay_t, out=carried_t)
        torch.addcmul(carried_t, b_t, u_t, out=h)
    steps = (adjoint, decay, c[..., None], gy[:, :, None])
    for adjoint_t, decay_t, c_t, gy_t in zip(*(z.unbind()[::-1] for z in steps), strict=True):
        torch.addcmul(g, c_t, gy_t, out=adjoint_t)
        torch.mul(adjoint_t, decay_t, out=g)
    gc = (carried @ gy[..., None])[..., 0] + b * (u * gy).sum(-1, keepdim=True)
    gb = (adjoint @ u[..., None])[..., 0]
    gu = (b[:, :, None] @ adjoint)[:, :, 0]
    both = adjoint.mul_(carried)
    for both_t, dt_t in zip(both.unbind(), dt[:, :, None].unbind(), strict=True):
        ga.addcmul_(both_t, dt_t)
    gdt = both.mul_(a).sum(2).addcmul_(gu, x)
    _fill(found, (gu * dt).addcmul_(gy, d), gdt, gb, gc)
    return g, ga, gd + (gy * x).sum((0, 1))


def _fill(places: tuple[Tensor, ...], *values: Tensor) -> None:
    for place, value in zip(places, values, strict=True):
        place.copy_(value)


def _traced_forward(
    part: Callable[..., tuple[Tensor, Tensor]],
    h: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    y: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Compute what ``_eager_forward`` does, part by part."""
    x, dt, b, c = (z.to(h.dtype) for z in (x, dt, b, c))
    states, found = [], []
    for xs, dts, bs, cs in zip(*(z.split(PART) for z in (x, dt, b, c)), strict=True):
        states.append(h)
        h, ys = part(h, xs, dts, a, bs, cs, d)
        found.append(ys)
    y.copy_(torch.cat(found))
    return h, states


def _traced_backward(
    part: Callable[..., tuple[Tensor, ...]],
    g: Tensor,
    hs: list[Tensor],
    ga: Tensor,
    gd: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    gy: Tensor,
    *found: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what ``_eager_backward`` does, part by part, the last one first."""
    x, dt, b, c, gy = (z.to(g.dtype) for z in (x, dt, b, c, gy))
    cut, parts = (z.split(PART)[::-1] for z in (x, dt, b, c, gy)), []
    for h, xs, dts, bs, cs, gys in zip(hs[::-1], *cut, strict=True):
        g, ga, *gradients = part(g, h, ga, xs, dts, a, bs, cs, d, gys)
        parts.append(gradients)
    _fill(found, *(torch.cat(z[::-1]) for z in zip(*parts, strict=True)))
    return g, ga, gd + (gy * x).sum((0, 1))


def _part_forward(
    h: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the steps of a part in the words that the compiler fuses best."""
    u, ys = dt * x, []
    for i in range(len(x)):
        h = torch.exp(dt[i][:, None] * a) * h + b[i][:, :, None] * u[i][:, None]
        ys.append((h * c[i][:, :, None]).sum(1))
    return h, torch.stack(ys) + x * d


def _part_backward(
    g: Tensor,
    h: Tensor,
    ga: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    gy: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradient of the state before, ``ga``, and the gradients of x, dt, b and c.

    All that is summed over ``e``, or not at all, becomes one loop; two sums over ``n`` another.
    """
    u, decay, carried, states = dt * x, [], [], []
    for i in range(len(x)):
        decay.append(torch.exp(dt[i][:, None] * a))
        carried.append(decay[i] * h)
        h = carried[i] + b[i][:, :, None] * u[i][:, None]
        states.append(h)
    adjoint, both, gb, gc = [], [], [], []
    for i in reversed(range(len(x))):
        g = g + c[i][:, :, None] * gy[i][:, None]
        adjoint.append(g)
        both.append(g * carried[i])
        ga = ga + both[-1] * dt[i][:, None]
        gb.append((g * u[i][:, None]).sum(2))
        gc.append((states[i] * gy[i][:, None]).sum(2))
        g = g * decay[i]
    adjoint, both, gb, gc = (torch.stack(z[::-1]) for z in (adjoint, both, gb, gc))
    gu, gdt = (adjoint * b[..., None]).sum(2), (both * a).sum(2)
    return g, ga, gu * dt + gy * d, gdt + gu * x, gb, gc


EAGER = Ways(8, 1, _eager_forward, _eager_backward)


@cache
def _compiled() -> Ways:
    """Compile on first use: a part, whose results must stay in the cache, and calls of many."""
    from torch._dynamo import config as limits  # takes longer to import than all of this package

    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    compiler = torch.compile(dynamic=False, fullgraph=True)
    once: Any = torch.compiler.nested_compile_region
    forward = compiler(partial(_traced_forward, once(_part_forward)))
    backward = compiler(partial(_traced_backward, once(_part_backward)))
    return Ways(PARTS * PART, PART, _explained(forward), _explained(backward))


def _explained(chunk: Callable[..., T]) -> Callable[..., T]:
    """Turn a failure to compile into one sentence; compiling happens in the first calls."""
    from torch._dynamo.exc import TorchDynamoException

    def run(*given: Tensor) -> T:
        try:
            return chunk(*given)
        except TorchDynamoException as error:
            first = " ".join(str(error).split("\n")[:2]).strip()  # who failed, then why
            raise ConfigError(
                f"the compiled scan cannot be made on this machine ({first}); install a C++ "
                "compiler, or choose how='eager' or SACCADE_SCAN=eager"
            ) from error

    return run


def _has_kernel() -> bool:
    return importlib.util.find_spec(KERNEL.partition(".")[0]) is not None


def _kernel(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """Call mamba-ssm's kernel, which has time last and wants ``a`` and ``d`` in float32."""
    try:
        scan = importlib.import_module(KERNEL).selective_scan_fn
    except ImportError as error:
        raise ConfigError(
            f"the scan's kernel needs mamba-ssm ({error}); install it, or choose how='eager' or "
            "SACCADE_SCAN=eager"
        ) from error
    last = (z.to(x.dtype).mT.contiguous() for z in (x, dt, b, c))
    xs, dts, bs, cs = last
    y, h = scan(xs, dts, a.float(), bs, cs, d.float(), return_last_state=True)
    return y.mT, h
