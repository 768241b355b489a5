"""How the networks of a run lie over its processes.

    ddp     every process has all of them; gradients are averaged (``DistributedDataParallel``)
    fsdp    each has a share of every weight, gradient and moment, and gathers a block's weights
            while that block computes (``fully_shard``; Zhao et al., 2023,
            https://arxiv.org/abs/2304.11277)
    hsdp    groups of processes share as in fsdp, and the groups average as in ddp

The loop knows one thing more: ``whole``, a plain module with the weights of now, for all that is
not a step: scores, alarms, exports, pictures, checkpoints. Sharded networks could not do them on
one rank alone, nor outside their own ``forward``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from saccade.errors import ConfigError
from saccade.train.distributed import Ranks
from saccade.types import Objective

Layout = Literal["ddp", "fsdp", "hsdp"]


@dataclass
class Spread:
    """Networks where they lie: a step calls ``model``, ``objective`` holds what learns."""

    objective: Objective
    model: nn.Module
    blank: Objective  # the same networks without weights, to be filled for a checkpoint
    twin: Objective | None = None  # and where they are sharded, for all that is not a step
    scalars: tuple[nn.Parameter, ...] = ()  # single numbers, which are not sharded
    place: int | None = 0  # of this rank among the ``places`` that hold different rows; None where
    places: int = 1  #         another group's rank holds the same

    @contextmanager
    def averaging(self, last: bool) -> Iterator[None]:
        """Average over ranks in the last backward pass of a step only."""
        if isinstance(self.model, DistributedDataParallel):
            with nullcontext() if last else self.model.no_sync():
                yield
            return
        if self.twin is not None:
            sharded: Any = self.model
            sharded.set_requires_gradient_sync(last)
        yield
        for parameter in self.scalars if last else ():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    def gathered(self) -> Objective:
        """Return a plain module with all weights of now; all ranks must ask for it together."""
        if self.twin is None:
            return self.objective
        _fill(self.twin, self.objective, _same)
        return self.twin

    def copied(self, here: bool) -> Objective | None:
        """Return a plain module with copies of all weights of now in the processor's memory.

        All ranks must ask for it together; those that are not ``here`` get none. What never
        changes is not copied.
        """
        elsewhere = {value.data_ptr() for value in kept_elsewhere(self.objective)}

        def copy(value: Tensor) -> Tensor:
            return value if value.data_ptr() in elsewhere else value.to("cpu", copy=True)

        _fill(self.blank, self.objective, copy if here else _nowhere, buffers=here)
        return self.blank if here else None

    def weights(self, copied: Objective | None) -> dict[str, Tensor]:
        """Return what this rank writes of weights and buffers; of a copy where it has all."""
        if self.sharded:
            return self.rows(self.objective.state_dict())
        return {} if copied is None else copied.state_dict()

    @property
    def sharded(self) -> bool:
        """Whether this rank holds rows of the weights only."""
        return self.twin is not None

    def rows(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy what this rank writes of tensors into the processor's memory: its rows of those that
        are sharded, and the others where it is the first."""
        copies = {}
        for name, value in values.items() if self.place is not None else ():
            local = getattr(value, "to_local", None)
            if local is not None:
                copies[name] = local().detach().to("cpu", copy=True)
            elif self.place == 0:
                copies[name] = value.detach().to("cpu", copy=True)
        return copies

    @contextmanager
    def whole(self) -> Iterator[Objective]:
        """Yield the same for a while, and free its memory."""
        yield self.gathered()
        if self.twin is not None:
            _fill(self.twin, self.twin, _nowhere)


def spread(
    objective: Objective,
    ranks: Ranks,
    layout: Layout = "ddp",
    replicas: int = 0,
    *,
    checkpoint_activations: bool = False,
    compiled: bool = False,
) -> Spread:
    """Lay networks over the ranks; an optimizer must be built afterwards.

    Blocks, the elements of the networks' lists of layers, are what is gathered, recomputed
    (``checkpoint_activations``) and compiled at a time. ``replicas`` is the number of groups of
    ``hsdp``.

    Raises:
        ConfigError: the ranks do not divide into so many groups, or there is nothing to shard.
    """
    parts = blocks(objective)
    sharded = layout != "ddp" and ranks.world > 1
    blank, twin = blank_twin(objective), blank_twin(objective) if sharded else None
    for block in parts:
        if checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.compile()
    if ranks.world == 1:
        return Spread(objective, objective, blank)
    if not sharded:
        device_ids = [ranks.device] if ranks.device.type == "cuda" else None
        # Some objectives leave a module without gradient on purpose; DDP must not wait for it.
        model = DistributedDataParallel(objective, device_ids, find_unused_parameters=True)
        return Spread(objective, model, blank, place=0 if ranks.rank == 0 else None)
    scalars = tuple(p for p in objective.parameters() if not p.ndim)
    groups = replicas if layout == "hsdp" else 1
    _shard(objective, parts, ranks, groups, set(scalars))
    places = ranks.world // groups
    return Spread(
        objective,
        objective,
        blank,
        twin,
        tuple(p for p in scalars if p.requires_grad),
        place=ranks.rank if ranks.rank < places else None,
        places=places,
    )


def blocks(objective: nn.Module) -> list[nn.Module]:
    """Return the elements of lists of layers in which something learns, none inside another.

    A module that is ``called_in_parts`` has none: it calls other methods of its layers than
    ``forward``, which is all that can be gathered or recomputed.
    """
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in objective.modules():
        if getattr(module, "called_in_parts", False):
            inside.update(module.modules())
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or module in inside:
            continue
        for child in module:
            learns = any(p.requires_grad for p in child.parameters())
            if (
                learns
                and child not in inside
                and not isinstance(child, (nn.ModuleList, nn.ModuleDict))
            ):
                found.append(child)
                inside.update(child.modules())
    return found


def blank_twin(objective: Objective) -> Objective:
    """Copy networks without the memory of their weights; buffers are the same tensors."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in objective.buffers()}
    for parameter in objective.parameters():
        blank = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(blank, requires_grad=parameter.requires_grad)
    return deepcopy(objective, memo)


def kept_elsewhere(objective: nn.Module) -> set[nn.Parameter]:
    """Return the weights that no checkpoint holds: they never change, and are not sharded."""
    return {
        parameter
        for module in objective.modules()
        for name in getattr(module, "left_out", ())
        for parameter in module.get_submodule(name).parameters()
    }


def whole(value: Tensor) -> Tensor:
    """Return all of a tensor, of which this rank may have a share only; all ranks must ask."""
    full = getattr(value, "full_tensor", None)
    return (value if full is None else full()).detach()


def all_whole(values: Sequence[Tensor]) -> list[Tensor]:
    """Return all of many tensors; those of one type are gathered at once, in one message."""
    found = [value.detach() for value in values]
    kinds: dict[torch.dtype, list[int]] = {}
    for i, value in enumerate(values):
        if hasattr(value, "full_tensor"):
            kinds.setdefault(value.dtype, []).append(i)
    for indices in kinds.values():
        sharded: list[Any] = [found[i] for i in indices]
        mesh = sharded[0].device_mesh
        group = mesh.get_group(mesh.ndim - 1)  # of those that share rows; others have copies
        ranks = group.size()
        rows = [-(-len(value) // ranks) for value in sharded]  # the last ranks may have fewer
        padded = [
            F.pad(local := value.to_local(), [0, 0] * (local.ndim - 1) + [0, count - len(local)])
            for value, count in zip(sharded, rows, strict=True)
        ]
        flat = torch.cat([each.flatten() for each in padded])
        every = flat.new_empty(ranks * len(flat))
        dist.all_gather_into_tensor(every, flat, group=group)
        parts = every.view(ranks, -1).split([each.numel() for each in padded], dim=1)
        for i, value, part in zip(indices, sharded, parts, strict=True):
            found[i] = part.reshape(-1, *value.shape[1:])[: len(value)]
    return found


def share(value: Tensor, like: Tensor) -> Tensor:
    """Return this rank's share of a whole tensor, laid out as another one is."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return value.clone()
    from torch.distributed.tensor import DTensor, distribute_tensor  # takes a second to import

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), mesh, like.placements, src_data_rank=None)


def _fill(
    twin: nn.Module, source: nn.Module, change: Callable[[Tensor], Tensor], buffers: bool = False
) -> None:
    """Give one module the whole weights of another, changed; and its buffers, changed or not."""
    pairs = list(zip(twin.modules(), source.modules(), strict=True))
    places = [
        (mine, name, value)
        for mine, theirs in pairs
        for name, value in theirs._parameters.items()
        if value is not None
    ]
    full = all_whole([value for _, _, value in places])
    for (mine, name, value), found in zip(places, full, strict=True):
        mine._parameters[name] = nn.Parameter(change(found), requires_grad=value.requires_grad)
    for mine, theirs in pairs:
        mine.training = theirs.training
        for name, value in theirs._buffers.items():
            if value is not None:
                mine._buffers[name] = change(value) if buffers else value


def _same(value: Tensor) -> Tensor:
    return value


def _nowhere(value: Tensor) -> Tensor:
    return value.to("meta")


def _shard(
    objective: Objective,
    parts: list[nn.Module],
    ranks: Ranks,
    replicas: int,
    scalars: set[nn.Parameter],
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if replicas < 1 or ranks.world % replicas:
        raise ConfigError(
            f"{ranks.world} processes do not divide into {replicas} groups; set --train.replicas "
            "to a number of groups for hsdp (one for each machine, say), or --train.layout to fsdp"
        )
    shape = (ranks.world,) if replicas == 1 else (replicas, ranks.world // replicas)
    names = ("shard",) if replicas == 1 else ("replicate", "shard")
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=names)
    ignored = kept_elsewhere(objective) | scalars
    for block in parts:
        fully_shard(block, mesh=mesh, ignored_params=ignored)
    fully_shard(objective, mesh=mesh, ignored_params=ignored)
