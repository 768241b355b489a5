"""What the estimate says is held against what PyTorch keeps, on a CPU."""

import itertools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saccade.errors import ConfigError
from saccade.experiments import memory
from saccade.experiments.memory import Case, estimate, saved_bytes, working_bytes
from saccade.models.lora import LoraConfig
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditioned, ActionConditionedConfig
from saccade.recipes import vjepa2_ac
from saccade.train.optim import adamw, moments

PUBLISHED = Case(
    shape=ActionPredictorConfig(checkpoint_activations=True),
    adapters=LoraConfig(),
    frames=8,
    batch=2,
    auto_steps=2,
    optimizer="adamw8bit",
    precision="bfloat16",
    encoder_bytes=2 * 1_012_173_952,
    encoder_size=2,
    encoder_mlp=6144,
    kept_features=False,
)


class Live(TorchDispatchMode):
    """Counts the bytes of all arrays that are alive, and the most there ever were."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.gone, storage._cdata)
        return out

    def gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def objective(case: Case) -> ActionConditioned:
    encoder = ViTConfig(image_size=32, patch=8, dim=case.shape.feature_dim, depth=1, heads=2)
    model = ActionWorldModelConfig(encoder=encoder, predictor=case.shape, step_seconds=0.25)
    config = ActionConditionedConfig(
        model=model, lora=case.adapters, auto_steps=case.auto_steps, rollout_weight=1.0
    )
    return config.build().train()


def clips(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shape, batch, frames = case.shape, case.batch, case.frames
    return (
        torch.randn(batch, frames, case.patches, shape.feature_dim),
        torch.randn(batch, frames - 1, shape.action_size),
        torch.randn(batch, frames, shape.state_size),
    )


def measured(case: Case) -> tuple[int, int]:
    """Return the bytes alive between forward and backward pass, and at the peak."""
    network, given = objective(case), clips(case)
    known = [*given, *network.parameters()]
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            known.append(parameter.grad)
    with Live(known) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
            loss = torch.stack(list(network.terms_from_features(*given).values())).sum()
        held = live.now
        loss.backward()
    return held, live.peak


SMALL = replace(
    PUBLISHED,
    shape=ActionPredictorConfig(
        grid=(6, 6), feature_dim=64, dim=96, depth=4, heads=3, mlp=384, state_size=7
    ),
    adapters=LoraConfig(rank=4),
    frames=6,
    batch=3,
    kept_features=True,
    device="cpu",
)
LORA = LoraConfig(rank=4)
OPTIONS = [
    *itertools.product((False, True), (LORA, None), ("float32", "bfloat16"), (2,)),
    *((False, LORA, "bfloat16", steps) for steps in (1, 3)),
    (True, LORA, "bfloat16", 3),
]


@pytest.mark.parametrize(("again", "adapters", "precision", "auto_steps"), OPTIONS)
def test_activations_are_those_that_autograd_keeps(
    again: bool, adapters: LoraConfig | None, precision: str, auto_steps: int
) -> None:
    case = replace(
        SMALL,
        shape=replace(SMALL.shape, checkpoint_activations=again),
        adapters=adapters,
        precision=precision,
        auto_steps=auto_steps,
    )
    held, peak = measured(case)
    features = clips(case)[0].nbytes  # which the caller holds here
    assert saved_bytes(case) == pytest.approx(held, rel=0.15)
    assert saved_bytes(case) + working_bytes(case) - features == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize("adapters", [LoraConfig(rank=64), None])
@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_weights_gradients_and_moments_are_counted_exactly(
    adapters: LoraConfig | None, kind: str
) -> None:
    case = replace(SMALL, adapters=adapters, optimizer=kind)
    network = objective(case)
    optimizer = adamw(network, 1e-3, 0.1, (0.9, 0.95), kind)
    terms = network.terms_from_features(*clips(case))
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    encoder = size(network.model.encoder.parameters())
    told = estimate(replace(case, encoder_bytes=encoder))
    assert told.weights == size(network.parameters())
    assert told.gradients == size(p.grad for p in network.parameters() if p.grad is not None)
    state = moments(network, optimizer)
    assert told.optimizer == size(v for name, v in state.items() if not name.endswith(".step"))


def size(arrays: Iterable[Tensor | nn.Parameter]) -> int:
    return sum(array.nbytes for array in arrays)


def test_adapters_of_the_published_model_fit_into_24_gigabytes() -> None:
    told = estimate(PUBLISHED)
    assert told.weights == PUBLISHED.encoder_bytes + 4 * (305_220_992 + 6_291_456)
    assert told.gradients == 4 * 6_291_456
    assert told.optimizer < 0.3 * 8 * 6_291_456
    assert told.total < 24e9
    dearer = memory.alternatives(PUBLISHED)
    assert estimate(dearer["without checkpoint-activations"]).saved > 5 * told.saved
    assert estimate(dearer["features float32"]).total < told.total


def test_the_table_has_a_row_for_each_option_and_a_column_for_each_batch() -> None:
    rows = memory.table(PUBLISHED).splitlines()
    assert rows[0].startswith("one GPU would hold about 6.37 GB")
    assert rows[2].split() == ["1", "2", "4", "8"]
    plain = next(row for row in rows if row.startswith("without checkpoint-activations"))
    numbers = [float(cell) for cell in plain.split()[2:]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 4
    assert len(rows) == 9


def test_a_step_without_room_is_refused_with_what_would_help() -> None:
    case = replace(PUBLISHED, shape=replace(PUBLISHED.shape, checkpoint_activations=False))
    memory.require_room(case, 24_000_000_000, "a card")
    with pytest.raises(ConfigError, match=r"needs about 12\.\d GB and 10\.0 GB are free on a card"):
        memory.require_room(case, 10_000_000_000, "a card")
    with pytest.raises(ConfigError, match=r"with checkpoint-activations saves 5\.\d\d GB"):
        memory.require_room(case, 10_000_000_000, "a card")


def test_a_training_is_described_without_being_built() -> None:
    training = vjepa2_ac.debug()
    case = memory.describe(training)
    assert (case.batch, case.frames, case.auto_steps, case.precision) == (4, 4, 2, "bfloat16")
    assert case.encoder_bytes == size(training.blank().model.encoder.parameters())
    assert (case.encoder_size, case.kept_features) == (4, False)
