"""Is a recording in two parts of a split? Refuse it, whatever disguise the recording comes in.

    the same episode     of one data set, seen through any number of subsets
    the same steps       a copy under another index or in another data set, or overlapping pieces:
                         states and commands agree to the last bit while the arm moves, and the
                         pictures there but for noise and compression
    between frames       frames of one recording dealt to two parts: moments of one episode lie
                         between successive moments of another that is as far on its way
    continued            a recording cut into pieces: one begins, in full motion, just where and
                         as fast as another ends

Scripted experts of a simulator do repeat themselves to the last bit, so pictures have the last word
on equal steps: where objects lie elsewhere, nothing has leaked. Where the pictures are the same
too, nothing varies in that task, and the episode is evidence of memory only: ``repeats`` names it.

The last two look at states that change smoothly, in units of their own steps. Honest episodes
start alike, stand still, or end at one place, but most of a part's do not run along the path of
another, as far on their way as it is; nor do they begin in the middle of another's motion. A leak
is not seen of recordings that never move, have no states, or jump about from frame to frame, nor
where a part has so few frames of each recording that they tell nothing (a fifth, dealt at random).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import KDTree
from torch.nn import functional as F

from saccade.data.episodes import Episodes
from saccade.errors import DataError
from saccade.evals.clips import rooted
from saccade.evals.probes.base import split_of

SAME = 0.05  # of an episode's moving steps, that another part may hold by accident
COMPARED = 8  # moments of such an episode whose pictures are compared
BLOCK = 8  # pixels per side of the blocks whose means are compared: noise averages out
ALIKE = 4.0  # grey levels by which the means of one scene's blocks may differ
DETOUR = 1.15  # of a step, by way of a moment that lies between its ends
BETWEEN_SHARE = 0.7  # of an episode's brisk moments that lie between those of one other
BRISK = 0.5  # of an episode's typical step: below it, its arm rests
FEWEST = 10  # brisk moments that can tell anything
LOOKED_AT = 64  # brisk moments of an episode
NEAR = 8  # steps of other episodes that are compared with a moment
SEARCHED = 6  # dimensions that neighbours are searched in; they are compared in all
SMOOTH = 0.5  # step of a number, of its spread: one that jumps about more is noise
CONTINUES = 0.5  # of a step, between where an episode begins and where another would have gone on
LEAKING = 0.5  # of the episodes of a part: fewer look alike by accident, a deal of frames does all
IN_TIME = 0.08  # of an episode: frames of one recording lie as far into either part of it
CONTINUED_SHARE = 0.1  # the same, of episodes that begin where others end; two at least


class Path(NamedTuple):
    """States of an episode in units of a typical step."""

    states: Float64[np.ndarray, "t s"]
    steps: Mapping[bytes, int]  # those in which the state changes, and when they begin

    @property
    def strides(self) -> Float64[np.ndarray, " _"]:
        """How far each step goes."""
        return np.linalg.norm(np.diff(self.states, axis=0), axis=1)


class Repeat(NamedTuple):
    """An episode that another part holds too, in states, commands and pictures."""

    episode: int
    share: float  # of its moving steps
    part: str
    of: int


def check_parts(parts: Mapping[str, Episodes], camera: str) -> None:
    """Refuse parts that share episodes or frames, or that lack one to fit, choose or report on.

    Perturbed copies (``test | noise``) are of the part before the bar. Pictures are compared
    through ``camera``.

    Raises:
        DataError: it names the parts and the episode.
    """
    missing = {"train", "select", "test"} - set(parts)
    if missing:
        raise DataError(f"a probe lacks the parts {sorted(missing)}; split the episodes into them")
    plain = _plain(parts)
    held = {name: identities(episodes) for name, episodes in plain.items()}
    for first, second in combinations(held, 2):
        shared = sorted(held[first] & held[second])
        if shared:
            raise DataError(
                f"episode {shared[0][1]} of {shared[0][0]} is in {first!r} and in {second!r} "
                f"({len(shared)} such); split by episode, each into one part"
            )
    paths = {name: _paths(episodes) for name, episodes in plain.items()}
    for name, found in _repeats(plain, paths, camera).items():
        first = found[0]
        raise _leak(
            f"{first.share:.0%} of the moving steps of episode {first.episode} of {name!r} are "
            f"also in {first.part!r} (in episode {first.of}), with the same pictures, and so for "
            f"{len(found)} of {len(plain[name].lengths)} episodes"
        )
    for first, second in combinations(plain, 2):
        scaled = _in_steps(paths[first], paths[second])
        if scaled is not None:
            _check_between(first, scaled[0], second, scaled[1])
            _check_between(second, scaled[1], first, scaled[0])
            _check_continued(first, scaled[0], second, scaled[1])


def repeats(parts: Mapping[str, Episodes], camera: str) -> dict[str, list[Repeat]]:
    """Name the episodes of each part that a part before it holds too.

    Those are what ``check_parts`` refuses as the same steps, without whom it lets the others
    through.
    """
    plain = _plain(parts)
    return _repeats(plain, {name: _paths(each) for name, each in plain.items()}, camera)


def _plain(parts: Mapping[str, Episodes]) -> dict[str, Episodes]:
    return {name: episodes for name, episodes in parts.items() if not split_of(name)[1]}


def identities(episodes: Episodes) -> set[tuple[str, int]]:
    """Name every episode by the data set that holds it, whatever subsets lie between."""
    whole, keep = rooted(episodes)
    return {(whole.fingerprint, int(i)) for i in keep}


def _paths(episodes: Episodes) -> list[Path]:
    """Read the states of every episode, and digest every step in which they change."""
    found = []
    for episode, length in enumerate(episodes.lengths):
        state, action = episodes.numbers(episode, np.arange(length))
        moving = np.flatnonzero((state[1:] != state[:-1]).any(1)).tolist()
        steps = np.concatenate([state[:-1], action[:-1], state[1:]], 1)[moving]
        digests = [row.tobytes() for row in steps]
        found.append(Path(state.astype(np.float64), dict(zip(digests, moving, strict=True))))
    return found


def _repeats(
    parts: Mapping[str, Episodes], paths: Mapping[str, list[Path]], camera: str
) -> dict[str, list[Repeat]]:
    """Look for steps that agree to the last bit, and compare the pictures there."""
    held: dict[bytes, list[tuple[str, int]]] = {}
    found: dict[str, list[Repeat]] = {}
    for name, episodes in paths.items():
        for episode, path in enumerate(episodes):
            owners = Counter(owner for step in path.steps for owner in held.get(step, ()))
            for (part, of), count in owners.most_common(1):
                share = count / len(path.steps)
                known = paths[part][of].steps
                moments = [
                    (known[step], when) for step, when in path.steps.items() if step in known
                ]
                one, other = (parts[part], of), (parts[name], episode)
                if share > SAME and _look_alike(one, other, np.array(moments), camera):
                    found.setdefault(name, []).append(Repeat(episode, share, part, of))
        for episode, path in enumerate(episodes):
            for step in path.steps:
                held.setdefault(step, []).append((name, episode))
    return found


def _look_alike(
    one: tuple[Episodes, int],
    other: tuple[Episodes, int],
    moments: Int64[np.ndarray, "m 2"],
    camera: str,
) -> bool:
    """Say whether two episodes show the same at moments of either, but for noise."""
    some = moments[np.linspace(0, len(moments) - 1, min(len(moments), COMPARED)).astype(int)]
    means = []
    for (episodes, episode), when in zip((one, other), some.T, strict=True):
        frames, place = np.unique(when, return_inverse=True)
        pictures = episodes.pixels(episode, camera, frames)[place].float()
        means.append(F.avg_pool2d(pictures, min(BLOCK, *pictures.shape[-2:])))
    return means[0].shape == means[1].shape and bool((means[0] - means[1]).abs().max() < ALIKE)


def _in_steps(first: list[Path], second: list[Path]) -> tuple[list[Path], list[Path]] | None:
    """Keep the numbers that change smoothly, in units of their typical step; None if none does."""
    every = [*first, *second]
    if len({path.states.shape[1] for path in every}) != 1 or not every[0].states.shape[1]:
        return None
    states = np.concatenate([path.states for path in every])
    moves = np.concatenate([np.diff(path.states, axis=0) for path in every])
    if not len(moves) or not np.isfinite(states).all():
        return None
    typical, spread = np.sqrt((moves**2).mean(0)), states.std(0)
    kept = (typical > 0) & (typical < SMOOTH * spread)
    if not kept.any():
        return None
    one, other = (
        [Path(path.states[:, kept] / typical[kept], path.steps) for path in paths]
        for paths in (first, second)
    )
    return one, other


def _check_between(first: str, known: list[Path], second: str, asked: list[Path]) -> None:
    """Look for episodes whose moments lie between successive moments of one other."""
    before = np.concatenate([path.states[:-1] for path in known])
    after = np.concatenate([path.states[1:] for path in known])
    counts = [max(0, len(path.states) - 1) for path in known]
    owner = np.repeat(np.arange(len(known)), counts)
    when = np.concatenate([(np.arange(count) + 1) / (count + 1) for count in counts])
    if not len(owner):
        return
    seen = _seen(before.shape[1])
    tree = KDTree((before + after) @ seen / 2)
    gaps = np.linalg.norm(after - before, axis=1)
    found: dict[int, str] = {}
    for episode, path in enumerate(asked):
        moments = _brisk(path)
        if len(moments) < FEWEST:
            continue
        here = path.states[moments]
        _, near = tree.query(here @ seen, k=min(NEAR, len(owner)))
        near = near.reshape(len(here), -1)
        around = np.linalg.norm(here[:, None] - before[near], axis=2)
        around += np.linalg.norm(here[:, None] - after[near], axis=2)
        late = np.abs(when[near] - (moments[:, None] + 0.5) / len(path.states))
        between = (around < DETOUR * gaps[near]) & (late < IN_TIME + 1 / len(path.states))
        for of in np.unique(owner[near[between]]).tolist():
            share = _in_order(near, between & (owner[near] == of)) / len(moments)
            if share > BETWEEN_SHARE:
                found[episode] = (
                    f"{share:.0%} of the moments of episode {episode} of {second!r} at which it "
                    f"moves lie between successive moments of episode {of} of {first!r}"
                )
    if len(found) > LEAKING * len(asked):
        raise _leak(
            f"{next(iter(found.values()))}, and so for {len(found)} of {len(asked)} episodes"
        )


def _in_order(near: Int64[np.ndarray, "m k"], hit: Bool[np.ndarray, "m k"]) -> int:
    """Count moments that lie between others as time goes on: the longest run never going back."""
    ends: list[int] = []  # the smallest last step of a run of each length (patience sorting)
    for steps, hits in zip(near, hit, strict=True):
        if hits.any():
            step = int(steps[hits][0])  # the nearest
            place = bisect_right(ends, step)
            ends[place : place + 1] = [step]
    return len(ends)


def _check_continued(first: str, known: list[Path], second: str, asked: list[Path]) -> None:
    """Look for episodes that begin where others end, both in motion."""
    for (before, earlier), (after, later) in (
        ((first, known), (second, asked)),
        ((second, asked), (first, known)),
    ):
        ends = [i for i, path in enumerate(earlier) if _moves(path, -1)]
        begins = [i for i, path in enumerate(later) if _moves(path, 0)]
        if not ends or not begins:
            continue
        last = np.stack([earlier[i].states[-2:] for i in ends])
        step = last[:, 1] - last[:, 0]
        tree = KDTree(last[:, 1] + step)
        starts = np.stack([later[i].states[:2] for i in begins])
        near = np.asarray(tree.query(starts[:, 0])[1])
        length = np.linalg.norm(step[near], axis=1)
        there = np.linalg.norm(starts[:, 0] - (last[:, 1] + step)[near], axis=1)
        turned = np.linalg.norm(starts[:, 1] - starts[:, 0] - step[near], axis=1)
        hits = np.flatnonzero((there < CONTINUES * length) & (turned < CONTINUES * length))
        if len(hits) >= max(2, CONTINUED_SHARE * min(len(earlier), len(later))):
            raise _leak(
                f"{len(hits)} episodes of {after!r} go on, in motion, where one of {before!r} ends "
                f"(episode {begins[hits[0]]} after episode {ends[near[hits[0]]]})"
            )


def _brisk(path: Path) -> Int64[np.ndarray, " m"]:
    """Choose moments at which an episode moves."""
    strides = path.strides
    if not len(strides) or not strides.any():
        return np.empty(0, np.int64)
    moves = np.flatnonzero(strides > BRISK * np.sqrt((strides**2).mean()))
    if len(moves) > LOOKED_AT:
        moves = moves[np.linspace(0, len(moves) - 1, LOOKED_AT).astype(int)]
    return moves


def _moves(path: Path, end: int) -> bool:
    """Say whether an episode is in full motion at its beginning (0) or end (-1)."""
    strides = path.strides
    return len(strides) >= 2 and bool(strides[end] > BRISK * np.sqrt((strides**2).mean()))


def _seen(dims: int) -> Float64[np.ndarray, "s k"]:
    """Return what turns states into a few directions of them, always the same ones."""
    if dims <= SEARCHED:
        return np.eye(dims)
    drawn = np.random.default_rng(0).standard_normal((dims, SEARCHED))
    return np.linalg.qr(drawn)[0]


def _leak(found: str) -> DataError:
    return DataError(
        f"{found}: frames of one recording are in both parts; split by recording, never by frame"
    )
