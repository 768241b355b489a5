"""What happens to broken data: an error, or a count of what was left out that has a limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from saccade.errors import ConfigError, DataError

OnError = Literal["raise", "skip"]


class Skipped:
    """What was left out, and why.

    Args:
        on_error: ``raise`` ends at the first fault, ``skip`` lists it and goes on.
        most: share of all that may be left out.

    Raises:
        ConfigError: ``most`` is no share.
    """

    def __init__(self, on_error: OnError = "raise", most: float = 0.01) -> None:
        if not 0 <= most <= 1:
            raise ConfigError(f"most_skipped is {most}, expected a share from 0 to 1")
        self.on_error: OnError = on_error
        self.most = most
        self.found: dict[str, str] = {}

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Run a block whose ``DataError`` concerns ``name`` alone."""
        try:
            yield
        except DataError as error:
            self.add(name, error)

    def add(self, name: str, error: DataError) -> None:
        """List a fault, or raise it."""
        if self.on_error == "raise":
            raise error
        self.found[name] = str(error)

    def settle(self, total: int, unit: str) -> None:
        """Judge the whole.

        Raises:
            DataError: more was left out than is allowed.
        """
        if len(self.found) > self.most * total:
            name, reason = next(iter(self.found.items()))
            raise DataError(
                f"{len(self.found)} of {total} {unit} are broken, more than the {self.most:.2%} "
                f"that may be skipped; the first is {name}: {reason}"
            )
