"""What every process of ours owes the one that started it."""

import multiprocessing
import os
import threading
from multiprocessing.context import ForkServerContext

from saccade.errors import ConfigError


def forkserver() -> ForkServerContext:
    """Return the way to start processes that read: forks of one that has imported what they need.

    Importing torch anew takes a second of each of them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saccade.data.loader"])
    return context


def die_with_parent() -> None:
    """End this process when its parent ends, however that happens, so that no orphan works on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def require_own_main() -> None:
    """Refuse to work while a process that a script has started imports that script anew.

    The script would wait for that process, and that process for what the script has locked.

    Raises:
        ConfigError: it says what to write into the script.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "this script reads data while a process that it has started imports it; put what it "
            'does into a function, and call that under `if __name__ == "__main__":`'
        )
