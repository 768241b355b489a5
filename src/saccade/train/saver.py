"""Writing checkpoints while training goes on.

What is to be written is copied first, so it is that of its step however far training gets. One
write is under way at a time: the next one waits for it (memory does not grow where the disk is
slow), and so do whoever looks for checkpoints and the end of the run.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Saver:
    """Do one piece of work at a time, beside what goes on, or at once."""

    def __init__(self, background: bool) -> None:
        self.background = background
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether the last piece of work ended with an error, which ``settle`` will raise."""
        last = self._under_way
        return last is not None and last.done() and last.exception() is not None

    def begin(self, work: Callable[[], None]) -> None:
        """Start a piece of work, after the one before."""
        self.settle()
        if self.background:
            self._under_way = self._threads.submit(work)
        else:
            work()

    def settle(self) -> None:
        """Wait for what is under way; raise its error, once."""
        last, self._under_way = self._under_way, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Wait, whatever comes of it: if it fails, something else went wrong before."""
        if self._under_way is not None:
            wait([self._under_way])
        self._threads.shutdown()
