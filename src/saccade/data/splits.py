"""Who may see what, as a file: episodes dealt into named parts once, for everyone.

    {"fingerprint": ..., "by": "task", "seed": 0, "shares": {...}, "parts": {"train": [0, 2], ...}}

Parts name episodes by number; the fingerprint says of which data set.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from saccade.checkpoint import write_atomic
from saccade.data.episodes import Episodes, Subset, split
from saccade.errors import ConfigError, DataError

Level = Literal["episode", "task", "scene"]
UNSEEN_SCENES = "unseen scenes"  # the part of episodes that were recorded in held-out scenes
NEAR = 3  # names that an error suggests


def hold_out(
    episodes: Episodes,
    shares: Mapping[str, float],
    tasks: Sequence[str] = (),
    scenes: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Subset]:
    """Deal episodes as ``split`` does, and those of held-out scenes into ``unseen scenes``.

    An episode of a held-out task stays ``unseen``, wherever it was recorded. One that names no
    scene may have been recorded in a held-out one: it goes to no part, unless its task is held
    out.

    Raises:
        DataError: a task or scene is not in the data, or a part would be empty.
    """
    if not scenes:
        return split(episodes, shares, tasks, seed)
    places = [episodes.about(i).get("scene", "") for i in range(len(episodes.lengths))]
    _require_scenes(scenes, set(places) - {""})
    there = [i for i, place in enumerate(places) if place in scenes]
    unknown = [i for i, place in enumerate(places) if not place]
    parts = split(episodes, shares, tasks, seed, left_out={*there, *unknown})
    there = [i for i in there if episodes.tasks[i] not in tasks]
    if not there:
        raise DataError(
            f"all episodes of the held-out scenes {sorted(scenes)} are of held-out tasks, which "
            "keep them; hold out other scenes, or fewer tasks"
        )
    return {**parts, UNSEEN_SCENES: Subset(episodes, there)}


def _require_scenes(scenes: Sequence[str], known: set[str]) -> None:
    """Refuse scenes that no episode has.

    Raises:
        DataError: it lists the nearest that there are.
    """
    if not known:
        raise DataError(
            f"no episode names its scene, so {sorted(scenes)} cannot be held out; hold out tasks, "
            "or read the data set in a format that keeps scenes"
        )
    absent = sorted(set(scenes) - known)
    if absent:
        near = [
            name
            for scene in absent
            for name in difflib.get_close_matches(scene, sorted(known), NEAR, cutoff=0.3)
        ]
        shown = list(dict.fromkeys(near)) or sorted(known)[:NEAR]
        raise DataError(
            f"held-out scenes {absent} are not in the data; of its {len(known)} the nearest are "
            f"{shown}"
        )


def deal(
    episodes: Episodes, by: Level, shares: Mapping[str, float], seed: int = 0
) -> dict[str, list[int]]:
    """Deal the episodes that have frames into named parts, in about these shares.

    By ``episode``, each task is dealt on its own, so that every part knows every task; by ``task``
    or ``scene``, all episodes that share one go to the same part.

    Raises:
        ConfigError: a share is not positive, or the seed is negative.
        DataError: a part would be empty, or the data set does not name its tasks or scenes.
    """
    if not shares or not all(np.isfinite(share) and share > 0 for share in shares.values()):
        raise ConfigError(f"shares are {dict(shares)}, expected positive numbers, like train=0.8")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
    usable = [i for i, length in enumerate(episodes.lengths) if length]
    if by == "episode":
        dealt = split(Subset(episodes, usable), shares, seed=seed)
        return {name: [usable[i] for i in part.keep] for name, part in dealt.items()}
    groups: dict[str, list[int]] = {}
    for i in usable:
        groups.setdefault(_group(episodes, by, i), []).append(i)
    if len(groups) < len(shares):
        raise DataError(
            f"the data set has {len(groups)} {by}s, too few for {len(shares)} parts; split it by "
            "episode, or give fewer shares"
        )
    total, parts = sum(shares.values()), {name: [] for name in shares}
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [name for name, members in parts.items() if not members]
        lacks = {  # how many episodes a part is short of its share
            name: shares[name] / total * len(usable) - len(members)
            for name, members in parts.items()
            if left > len(empty) or name in empty  # the last groups are for those without any
        }
        parts[max(lacks, key=lambda name: lacks[name])] += groups[group]
    return {name: sorted(members) for name, members in parts.items()}


def save_split(
    path: Path,
    episodes: Episodes,
    by: Level,
    shares: Mapping[str, float],
    seed: int,
    parts: Mapping[str, list[int]],
) -> None:
    """Write who may see what."""
    record = {
        "fingerprint": episodes.fingerprint,
        "by": by,
        "seed": seed,
        "shares": dict(shares),
        "parts": dict(parts),
    }
    write_atomic(path, json.dumps(record) + "\n")


def load_split(path: Path, episodes: Episodes) -> dict[str, Subset]:
    """Load the parts of a data set.

    Raises:
        DataError: the file is missing or damaged, or of another data set.
    """
    try:
        record = json.loads(path.read_text())
        fingerprint, parts = record["fingerprint"], dict(record["parts"])
        members = [i for part in parts.values() for i in part]
        whole = all(isinstance(i, int) and 0 <= i < len(episodes.lengths) for i in members)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is no split ({error!r}); make it with `saccade data split`"
        ) from error
    if fingerprint != episodes.fingerprint:
        raise DataError(
            f"{path} is of the data set {fingerprint}, not of {episodes.fingerprint}: the data or "
            "the reader's options changed; split again"
        )
    if not whole or len(set(members)) < len(members):
        raise DataError(f"{path} names episodes twice or that there are not; split again")
    return {name: Subset(episodes, part) for name, part in parts.items()}


def _group(episodes: Episodes, by: Level, episode: int) -> str:
    found = episodes.tasks[episode] if by == "task" else episodes.about(episode).get("scene", "")
    if not found:
        raise DataError(
            f"episode {episode} does not say its {by}; split the data set by "
            f"{'episode' if by == 'task' else 'episode or task'}"
        )
    return found
