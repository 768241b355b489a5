"""A factor on the loss, so that gradients in float16 do not vanish (Micikevicius et al., 2018).

https://arxiv.org/abs/1710.03740, section 3.2; halving and doubling as in ``torch.amp.GradScaler``,
whose state is one process's. Here it is one number of the run, agreed on by all ranks and saved.
"""

from dataclasses import dataclass

START, SMALLEST = 2.0**16, 2.0**-14  # the smallest normal number of float16
PATIENCE = 2000  # finite steps before the factor doubles


@dataclass
class LossScale:
    """The factor, and for how many steps gradients have been finite under it."""

    value: float = START
    finite: int = 0

    def update(self, finite: bool) -> None:
        """Double after many finite steps, halve after one that is not."""
        self.finite = self.finite + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.finite == PATIENCE:
            self.value, self.finite = 2 * self.value, 0

    @property
    def hopeless(self) -> bool:
        """Whether the factor is so small that it is not float16 which overflows."""
        return self.value < SMALLEST
