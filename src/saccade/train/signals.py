"""Being asked to stop: by SIGTERM, SIGINT (Ctrl-C), or SIGUSR1, SLURM's word before its limit."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from saccade.errors import Stopped

RESUMABLE, INTERRUPTED = 75, 130  # exit codes
CODES = {
    signal.SIGTERM: RESUMABLE,
    signal.SIGUSR1: RESUMABLE,
    signal.SIGINT: INTERRUPTED,
}


class Stop:
    """Whether this process was asked to stop, and what that would lose.

    A signal raises ``Stopped`` wherever the program is, but for stretches of ``deferred``, which
    must look at ``number`` themselves. A second signal ends the process at once, as if nobody
    had handled it.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came
        self.state = "nothing is lost; run the same command again"
        self._waits = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a signal wait until it is looked at, and at the latest until the end of this."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self.obey(self.number)

    def obey(self, number: int) -> None:
        """Stop if a signal came to any process.

        Raises:
            Stopped: it did; the exit code is 130 after Ctrl-C and 75 (resume me) otherwise.
        """
        if number:
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            raise Stopped(f"{name} came; {self.state}", CODES[signal.Signals(number)])

    def note(self, number: int, frame: object) -> None:
        """Handle a signal."""
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        if not self._waits:
            self.obey(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Handle the three signals for a while."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
