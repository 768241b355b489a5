import hashlib

import pytest
import torch
from torch import nn

from saccade.models.frozen import digest_of


def test_a_digest_is_computed_once_and_again_where_a_weight_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    ear, hand = nn.Linear(3, 2), nn.Linear(3, 2)
    module = nn.ModuleDict({"eye": nn.Linear(3, 2), "ear": ear, "hand": hand})
    first = digest_of(module, ("eye", "ear"))
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", None)
        assert digest_of(module, ("eye", "ear")) == first
    assert digest_of(module, ("eye",)) != first
    with torch.no_grad():
        hand.weight.zero_()
        assert digest_of(module, ("eye", "ear")) == first
        ear.bias[0] += 1
    changed = digest_of(module, ("eye", "ear"))
    assert changed != first
    with torch.no_grad():
        ear.bias[0] -= 1
    ear.weight = nn.Parameter(ear.weight.detach().clone())
    assert digest_of(module, ("eye", "ear")) == first
