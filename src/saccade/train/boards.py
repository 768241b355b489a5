"""Where else numbers and pictures of a run are shown: TensorBoard, Weights & Biases, trackio.

One that fails says so once and is left alone: training goes on, and ``metrics.jsonl`` has it all.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.image import imread

from saccade.errors import ConfigError

Name = Literal["tensorboard", "wandb", "trackio"]
Record = Mapping[str, int | float]
EXTRA = {"tensorboard": "saccade[log]", "wandb": "saccade[log]", "trackio": "trackio"}
HOST = "api.wandb.ai"


class Board(Protocol):
    """Something that shows numbers."""

    def write(self, record: Record) -> None:
        """Add one record of ``metrics.jsonl``."""
        ...

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Add pictures, PNG files by name."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class TensorBoard:
    """Event files in ``RUN/tensorboard``."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, imported when asked for

        self.writer = SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, record: Record) -> None:
        """Add one record."""
        for name, value in record.items():
            if isinstance(value, float):
                self.writer.add_scalar(name, value, int(record["step"]))
        self.writer.flush()

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Add pictures."""
        for name, path in pictures.items():
            pixels = (255 * imread(path)[..., :3]).round().astype(np.uint8)
            self.writer.add_image(f"pictures/{name}", pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Tracker:
    """wandb, or trackio, which has the same functions.

    The project is ``WANDB_PROJECT`` or ``saccade``, the run is named after its folder, and goes on
    under its own id when it is resumed. Without a key wandb writes ``RUN/wandb`` only, to be sent
    later with ``wandb sync``; it never asks.
    """

    def __init__(self, module: str, run_dir: Path) -> None:
        tracker: Any = importlib.import_module(module)
        place = run_dir.resolve()
        settings: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", "saccade"),
            "name": place.name,
            "config": _settings(run_dir),
            "resume": "allow",
        }
        if module == "wandb":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
            number = hashlib.sha256(str(place).encode()).hexdigest()[:12]
            quiet = tracker.Settings(silent=True, console="off", x_disable_stats=True)
            settings |= {"mode": mode, "id": number, "dir": str(run_dir), "settings": quiet}
        self.image: Any = tracker.Image
        self.run: Any = tracker.init(**settings)

    def write(self, record: Record) -> None:
        """Add one record."""
        self.run.log(dict(record), step=int(record["step"]))

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Add pictures."""
        found = {f"pictures/{name}": self.image(str(path)) for name, path in pictures.items()}
        self.run.log(found, step=step)

    def close(self) -> None:
        """Let it finish."""
        self.run.finish()


class Boards:
    """Several boards, of which any may fail.

    Raises:
        ConfigError: the package of one is not installed.
    """

    def __init__(self, names: tuple[Name, ...], run_dir: Path, warn: Callable[[str], None]) -> None:
        self.warn, self.open = warn, dict[str, Board]()
        for name in names:
            try:
                made = TensorBoard(run_dir) if name == "tensorboard" else Tracker(name, run_dir)
                self.open[name] = made
            except ImportError as error:
                self.close()
                raise ConfigError(
                    f"{name} is not installed; pip install '{EXTRA[name]}' or drop it from "
                    "--train.boards (metrics.jsonl is always written)"
                ) from error
            except Exception as error:  # noqa: BLE001 - each package has errors of its own
                self._failed(name, error)

    def write(self, record: Record) -> None:
        """Add one record to each that works."""
        self._each(lambda board: board.write(record))

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Add pictures to each that works."""
        self._each(lambda board: board.show(pictures, step))

    def close(self) -> None:
        """Close all."""
        self._each(lambda board: board.close())
        self.open.clear()

    def _each(self, what: Callable[[Board], None]) -> None:
        for name, board in list(self.open.items()):
            try:
                what(board)
            except Exception as error:  # noqa: BLE001 - each package has errors of its own
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.open.pop(name, None)
        first = (str(error).splitlines() or [type(error).__name__])[0]
        self.warn(f"{name} stopped ({first:.200}); metrics.jsonl goes on")


def has_key() -> bool:
    """Whether wandb could send what it is given without asking who we are."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators(HOST) is not None
    except (OSError, NetrcParseError):
        return False


def _settings(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "experiment.json"
    return json.loads(path.read_text()) if path.is_file() else {}
