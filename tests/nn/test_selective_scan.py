import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import ConfigError
from saccade.nn import selective_scan as module
from saccade.nn.selective_scan import EAGER, scan_with_state, selective_scan

Q = EAGER.most
NAMES = ("x", "dt", "a", "b", "c", "d", "h")


def inputs(batch: int = 2, length: int = 2 * Q + 3, width: int = 6, state: int = 4) -> list[Tensor]:
    """Draw what a layer gives the scan, in float64."""
    torch.manual_seed(0)
    a = -torch.arange(1.0, state + 1).repeat(width, 1) * torch.randn(width, state).mul(0.1).exp()
    given = [
        torch.randn(batch, length, width),
        F.softplus(torch.randn(batch, length, width) - 2),
        a,
        torch.randn(batch, length, state),
        torch.randn(batch, length, state),
        torch.randn(width),
        torch.randn(batch, width, state),
    ]
    return [z.double() for z in given]


def definition(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence as the paper writes it, for every channel and step."""
    ys = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * a)
        h = decay * h + dt[:, t, :, None] * x[:, t, :, None] * b[:, t, None]
        ys.append((h * c[:, t, None]).sum(-1) + d * x[:, t])
    return torch.stack(ys, 1), h


def learning(given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [z.to(dtype).requires_grad_() for z in given]


def gradients(found: tuple[Tensor, Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    """Return those of a weighted sum of all outputs and of the last state."""
    torch.manual_seed(1)
    weights = [torch.randn(z.shape, dtype=torch.float64).to(z.dtype) for z in found]
    return torch.autograd.grad(found, given, weights)


@pytest.mark.parametrize(
    "shape", [{"length": n} for n in (1, Q - 1, Q, Q + 1, 395)] + [{"state": 64}, {"batch": 1}]
)
def test_it_is_the_recurrence_of_the_paper(shape: dict[str, int]) -> None:
    given = inputs(**shape)
    exact, single = learning(given, torch.float64), learning(given, torch.float32)
    reference, found = definition(*exact), scan_with_state(*single)
    for ours, theirs in zip(found, reference, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    pairs = zip(gradients(found, single), gradients(reference, exact), NAMES, strict=True)
    for ours, theirs, name in pairs:
        apart = float((ours.double() - theirs).abs().max() / theirs.abs().max())
        assert apart < 1e-6, name


def test_gradients_are_those_of_finite_differences() -> None:
    given = learning(inputs(length=Q + 2, width=2, state=2), torch.float64)
    assert torch.autograd.gradcheck(scan_with_state, given)


def test_outputs_that_nobody_uses_give_no_gradient() -> None:
    given = learning(inputs(), torch.float64)
    for i in range(2):
        ours = torch.autograd.grad(scan_with_state(*given)[i].sum(), given)
        theirs = torch.autograd.grad(
            definition(*given)[i].sum(), given, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(ours, theirs)


def test_a_scan_continues_from_the_state_of_another() -> None:
    x, dt, a, b, c, d, h = inputs()
    whole, last = scan_with_state(x, dt, a, b, c, d, h)
    cut = Q + 1
    first, between = scan_with_state(x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], d, h)
    rest = (x[:, cut:], dt[:, cut:], a, b[:, cut:], c[:, cut:], d)
    second, end = scan_with_state(*rest, between)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)
    fresh = selective_scan(*rest)
    torch.testing.assert_close(fresh, selective_scan(*rest, torch.zeros_like(h)))
    assert (fresh - second).abs().max() > 0.1


def test_inputs_may_be_views_of_anything() -> None:
    """As convolutions and splits give them, and as gradients of sums come."""
    given = [z.requires_grad_() for z in inputs()]
    views = [z.detach().mT.contiguous().mT if z.ndim == 3 else z.detach() for z in given]
    views = [z.requires_grad_() for z in views]
    assert not views[0].is_contiguous()
    ours, theirs = scan_with_state(*views), scan_with_state(*given)
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.autograd.grad(found[0].sum(), z) for found, z in ((ours, views), (theirs, given))
    )
    torch.testing.assert_close(ours, theirs)


def test_a_step_changes_nothing_before_it() -> None:
    given = inputs(length=20)
    before = selective_scan(*given)
    for i in (0, 1, 3, 4):  # x, dt, b, c
        changed = [z.clone() for z in given]
        changed[i][:, 11] += 1
        after = selective_scan(*changed)
        assert torch.equal(after[:, :11], before[:, :11])
        assert not torch.equal(after[:, 11], before[:, 11])


def test_bfloat16_inputs_lose_only_what_their_rounding_does() -> None:
    """The states of 395 steps are float32, so the result is that of the rounded inputs."""
    given = [z.to(torch.bfloat16) for z in inputs(length=395)]
    x, dt, a, b, c, d, h = (z.double() for z in given)
    exact, _ = definition(x, dt, a, b, c, d, h)
    half = [z.requires_grad_() for z in given]
    with torch.autocast("cpu", torch.bfloat16):
        found, state = scan_with_state(*[*half[:6], half[6].float()])
    assert (found.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)
    found.float().sum().backward()
    assert {z.grad.dtype for z in half if z.grad is not None} == {torch.bfloat16}
    assert all(z.grad is not None for z in half)


FRESH = """
import importlib, json, re, sys, torch
from functools import partial
from pathlib import Path
from saccade.errors import ConfigError
from saccade.nn import selective_scan as module

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def taken(length):
    x = torch.ones(8, length, 512, requires_grad=True)
    dt, b = torch.full_like(x, 0.1).requires_grad_(), torch.ones(8, length, 16)
    a, d, gy = torch.full((512, 16), -1.0, requires_grad=True), torch.ones(512), torch.ones_like(x)
    before = peak()
    module.selective_scan(x, dt, a, b, b, d, how="eager").backward(gy)
    return peak() - before

def apart(batch, length):
    torch.manual_seed(0)
    x, dt, b, c = (torch.rand(batch, length, n).requires_grad_() for n in (3, 3, 2, 2))
    given = (x, dt, -torch.rand(3, 2).requires_grad_(), b, c, torch.rand(3).requires_grad_())
    y, other = (module.selective_scan(*given, how=how) for how in ("compiled", "eager"))
    pairs = [(y, other)]
    if length > 1:
        pairs += zip(*(torch.autograd.grad(z.sum(), given) for z in (y, other)))
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)

def fail(*graph):
    raise RuntimeError("no C++ compiler here")

taken(20)  # imports and threads
found = {"memory": taken(395), "imported": "torch._dynamo" in sys.modules}
whole = torch.compile
torch.compile = partial(whole, backend="eager")
importlib.import_module("torch._dynamo.config").recompile_limit = 1  # it is 8, of batch sizes
found["apart"] = [apart(2, 6), apart(3, 4), apart(1, 1)]
module._compiled.cache_clear()
torch.compile = partial(whole, backend=fail)
try:
    apart(2, 4)
except ConfigError as error:
    found["told"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """What a process without type checks finds: it traces as ever, but does not compile to C++."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_memory_is_that_of_a_chunk(fresh: dict[str, Any]) -> None:
    """States of all steps would be 104 MB."""
    three = 3 * 8 * 395 * 512 * 4  # y and two gradients
    assert three < fresh["memory"] < 60 * 2**20
    assert not fresh["imported"], "the compiler, which takes a second to import, waits to be asked"


def test_the_compiled_scan_is_the_eager_one(fresh: dict[str, Any]) -> None:
    """Of whole and of broken chunks, and of more sizes of batches than torch allows by itself."""
    assert len(fresh["apart"]) == 3
    assert max(fresh["apart"]) < 1e-5


def test_compiling_without_a_compiler_says_so(fresh: dict[str, Any]) -> None:
    assert "cannot be made on this machine" in fresh["told"]
    assert "no C++ compiler here" in fresh["told"]
    assert "SACCADE_SCAN=eager" in fresh["told"]


def test_the_kernel_is_called_as_mamba_ssm_defines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its layout, time last; what it computes is checked where a GPU and mamba-ssm are."""

    def selective_scan_fn(u, delta, a, b, c, d, return_last_state):
        assert return_last_state
        assert a.dtype == d.dtype == torch.float32
        assert all(z.is_contiguous() and z.dtype == u.dtype for z in (u, delta, b, c))
        y, h = definition(u.mT, delta.mT, a, b.mT, c.mT, d, u.new_zeros(len(u), *a.shape))
        return y.mT, h

    theirs = ModuleType(module.KERNEL)
    theirs.__dict__["selective_scan_fn"] = selective_scan_fn
    monkeypatch.setitem(sys.modules, module.KERNEL, theirs)
    given = [z.float() for z in inputs()[:6]]
    torch.testing.assert_close(module._kernel(*given), scan_with_state(*given))


@pytest.mark.gpu
def test_the_kernel_is_the_eager_scan() -> None:
    pytest.importorskip("mamba_ssm")
    given = [z.float().cuda() for z in inputs()[:6]]
    ours, theirs = (scan_with_state(*given, how=how) for how in ("eager", "kernel"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_wrong_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs()
    with pytest.raises(ConfigError, match=r"how is 'kernel', which .* found torch.float64 on cpu"):
        selective_scan(*given, how="kernel")
    monkeypatch.setenv("SACCADE_SCAN", "quick")
    with pytest.raises(ConfigError, match="SACCADE_SCAN is 'quick', expected one of auto, eager"):
        selective_scan(*given)
    assert selective_scan(*given, how="eager").shape == given[0].shape  # asked for by name
