"""What every process of ours owes the one that started it."""

import multiprocessing
import os
import threading


def die_with_parent() -> None:
    """End this process when its parent ends, however that happens, so that no orphan works on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
