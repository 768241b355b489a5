"""Parts that are not trained and that another folder has: out of checkpoints, not out of mind.

A checkpoint holds their digest in place of their weights. What was loaded from the folder must
still be what the run began with, or a resumed run would go on with other features, unseen.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from saccade.errors import CheckpointError

DIGEST = "frozen_digest"
_known: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def digest_of(module: nn.Module, children: Sequence[str]) -> str:
    """Return the sha256 of every weight and buffer of some submodules, with their names.

    It takes seconds for a large network and is asked for at every checkpoint, so it is computed
    again only where a tensor is another one, or was changed in place.
    """
    values = {
        f"{child}.{name}": value
        for child in children
        for name, value in sorted(module.get_submodule(child).state_dict().items())
    }
    seen = [(name, value.data_ptr(), value._version) for name, value in values.items()]
    if module in _known and _known[module][0] == seen:
        return _known[module][1]
    digest = hashlib.sha256()
    for name, value in values.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    _known[module] = seen, digest.hexdigest()
    return digest.hexdigest()


def leave_out(module: nn.Module, children: Sequence[str]) -> None:
    """Keep submodules out of a module's state dict, and fill them from what they are on loading.

    Loading raises CheckpointError where they are not what they were when it was saved.
    """
    module.left_out = tuple(children)  # pyright: ignore[reportArgumentType]
    module.register_state_dict_post_hook(partial(_without, tuple(children)))
    module.register_load_state_dict_pre_hook(partial(_with, tuple(children)))


def _without(
    children: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any
) -> None:
    del metadata
    left = tuple(f"{prefix}{child}." for child in children)
    for name in [name for name in state if name.startswith(left)]:
        del state[name]
    digest = bytearray.fromhex(digest_of(module, children))
    state[prefix + DIGEST] = torch.frombuffer(digest, dtype=torch.uint8)


def _with(
    children: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, *others: Any
) -> None:
    del others
    saved = bytes(state.pop(prefix + DIGEST).cpu().tolist()).hex()
    if saved != digest_of(module, children):
        raise CheckpointError(
            f"the frozen {' and '.join(children)} are not what this run began with: the folder "
            "that they were loaded from has changed; restore it, or begin a new run"
        )
    for child in children:
        module.get_submodule(child).state_dict(destination=state, prefix=f"{prefix}{child}.")
