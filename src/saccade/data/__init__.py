"""Data sets as they lie: ``open_episodes(path_or_uri)`` reads any format that we know."""

from saccade.data.formats import open_episodes as open_episodes
