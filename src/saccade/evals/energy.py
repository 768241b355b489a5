"""The energy of actions: how far what a world model imagines after them is from a goal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.errors import ConfigError, NumericError
from saccade.types import Context, WorldModel

Metric = Literal["l1", "l2"]


@contextmanager
def evaluating(model: WorldModel) -> Iterator[None]:
    """Put every module in evaluation mode (dropout would blur), and back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class ImaginedEnergy:
    """Mean absolute (``l1``) or squared (``l2``) distance of the last imagined frame from a goal.

    Candidates are imagined as many at a time as ``memory`` gigabytes allow, by what the model says
    that one of them takes; how many makes no difference to their energies but rounding.
    ``evaluations`` counts them. Energies are differentiable where the actions ask for it.

    Raises:
        ConfigError: the goal's features are not of the size of the context's.
        NumericError: an energy is not finite.
    """

    def __init__(
        self,
        model: WorldModel,
        context: Context,
        goal: Float[Tensor, "n d"],
        metric: Metric = "l1",
        memory: float = 2.0,
    ) -> None:
        if goal.shape != context.features.shape[1:]:
            raise ConfigError(
                f"the goal has features {tuple(goal.shape)}, the context "
                f"{tuple(context.features.shape[1:])}; encode both with the same model and size"
            )
        self.model, self.context, self.metric, self.memory = model, context, metric, memory
        self.goal = goal.to(torch.promote_types(goal.dtype, torch.float32))
        self.evaluations = 0

    def __call__(self, actions: Float[Tensor, "m k a"]) -> Float[Tensor, " m"]:
        """Return the energy of each candidate."""
        slopes = actions.requires_grad
        one = self.model.candidate_bytes(self.context, actions.shape[1], slopes)
        together = max(1, int(self.memory * 1e9 / one))
        graph = torch.enable_grad if slopes else torch.no_grad
        with graph():
            values = torch.cat([self._some(part) for part in actions.split(together)])
        self.evaluations += len(actions)
        if not bool(values.isfinite().all()):
            bad = actions[~values.isfinite()][0].tolist()
            raise NumericError(f"the energy of {bad} is not finite; look at the model's weights")
        return values

    def _some(self, actions: Float[Tensor, "m k a"]) -> Float[Tensor, " m"]:
        """Compare in single precision at least, whatever the model computes in."""
        seen = self.model.imagine(self.context, actions.to(self.context.state.dtype))[:, -1]
        apart = (seen.to(self.goal.dtype) - self.goal).flatten(1)
        return apart.abs().mean(1) if self.metric == "l1" else apart.square().mean(1)
