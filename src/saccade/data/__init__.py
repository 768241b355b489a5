"""Data sets as they lie: ``open_episodes(path_or_uri)`` reads any format that we know."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade.data.formats import open_episodes as open_episodes


def __getattr__(name: str) -> Any:
    """Import every reader when it is asked for, not with each module of this package."""
    if name != "open_episodes":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from saccade.data.formats import open_episodes

    return open_episodes
