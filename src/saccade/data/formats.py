"""Every format that we read, and which one a folder holds.

A new format is its file in this folder and its name in ``FORMATS``.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any, ClassVar, Protocol

from saccade.config import Config
from saccade.data.bridge.npy import BridgeNumpyConfig
from saccade.data.bridge.raw import BridgeRawConfig
from saccade.data.bridge.rlds import BridgeConfig
from saccade.data.droid.raw import DroidRawConfig
from saccade.data.droid.rlds import DroidConfig
from saccade.data.egodex.reader import EgoDexConfig
from saccade.data.episodes import Episodes
from saccade.data.files.folder import Folder, open_folder
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.libero.reader import LiberoConfig
from saccade.data.npz import NpzConfig
from saccade.data.rlds.generic import RldsConfig
from saccade.data.video.folder import VideoFolderConfig
from saccade.errors import ConfigError, DataError


class Format(Protocol):
    """What the config of a reader has besides its options and ``build()``."""

    format: ClassVar[str]  # what ``format=`` is given
    about: ClassVar[str]  # one line: what is read, and which options matter

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether the folder is of this format, judged from few names and small files."""
        ...


FORMATS: tuple[type[Any], ...] = (  # the first that recognises a folder reads it
    LeRobotConfig,
    DroidConfig,
    BridgeConfig,
    RldsConfig,
    DroidRawConfig,
    BridgeRawConfig,
    BridgeNumpyConfig,
    EgoDexConfig,
    LiberoConfig,
    VideoFolderConfig,
    NpzConfig,
)
FILES = {".hdf5": LiberoConfig, ".npz": NpzConfig}  # whose files are data sets by themselves


def open_episodes(root: str | Path, format: str | None = None, **options: Any) -> Episodes:
    """Open a data set of any format that we read, on disk or in a bucket.

    ``options`` are fields of the reader's config (``saccade data formats`` lists them).

    Raises:
        ConfigError: an unknown format or option.
        DataError: the folder holds no data set that we know, or a broken one.
    """
    return configure(root, format, **options).build()


def configure(root: str | Path, format: str | None = None, **options: Any) -> Config[Episodes]:
    """Return the config of the reader for a data set; text values are parsed as its fields say.

    Raises:
        ConfigError: an unknown format or option.
        DataError: there is no such folder, or it holds no data set that we know.
    """
    kind = _named(format) if format else _recognised(root)
    types = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)} - {"root"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ConfigError(
            f"data of the format {kind.format} have no options {unknown}; they have {sorted(known)}"
        )
    values = {name: _parsed(name, value, types[name]) for name, value in options.items()}
    return kind(root=root, **values)


def _named(format: str) -> type[Any]:
    kinds = {kind.format: kind for kind in FORMATS}
    if format not in kinds:
        raise ConfigError(f"there is no format {format!r}; the formats are {', '.join(kinds)}")
    return kinds[format]


def _recognised(root: str | Path) -> type[Any]:
    for suffix, kind in FILES.items():
        if str(root).endswith(suffix):
            return kind
    folder = open_folder(root)
    for kind in FORMATS:
        if kind.recognises(folder):
            return kind
    raise DataError(
        f"{root} is no data set that we know (tried {', '.join(k.format for k in FORMATS)}); "
        "give the folder itself, or its format"
    )


def _parsed(name: str, value: Any, kind: Any) -> Any:
    """Convert the text of an option to its field's type; other values are taken as they are.

    Raises:
        ConfigError: it is no such value.
    """
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if choices and value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(map(str, choices))}")
    if not isinstance(value, str):
        return value
    if typing.get_origin(kind) is tuple:
        return tuple(part for part in value.split(",") if part)
    truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        if kind is bool:
            return truth[value.lower()]
        return kind(value) if kind in (int, float) else value
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r}, expected {kind.__name__}") from error
