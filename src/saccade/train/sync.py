"""A run folder and its twin in a bucket: ``s3://``, ``gs://`` or ``hf://``.

A thread copies what is new every so often, and once more at the end, however the run ends. A file
is there when it is complete and has the checksum of the one here; of a checkpoint the manifest
comes last, so whatever has one can be resumed from, on any machine. An outage stops nothing: what
could not be copied is copied later. Nothing is deleted but checkpoints that this process pruned.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saccade import sabotage
from saccade.checkpoint import sync_folder
from saccade.errors import CheckpointError, ConfigError, DataError, SaccadeError, Stopped
from saccade.train import checkpoint
from saccade.train.manifest import MANIFEST

if TYPE_CHECKING:
    from saccade.data.remote.stores import Bucket

SCHEMES = ("s3", "gs", "hf")
PATIENCE = {"done": 1800.0, "failed": 120.0, "stopped": 20.0}  # seconds for the last copy
LONGEST_PAUSE = 60.0
UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hours": 3600, "": 1}
GROWING = ".jsonl"  # lines are added to these
LEFT_HERE = re.compile(r"(^|/)\.|\.tmp-|^(tensorboard|wandb)/")  # unfinished, or sent elsewhere


def seconds_of(text: str) -> float:
    """Read ``90``, ``90s``, ``10min`` or ``1h``.

    Raises:
        ConfigError: it is no time.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ConfigError(f"{text!r} is no time; write 90s, 10min or 1h")
    return float(found[1]) * UNITS[found[2]]


class Sync:
    """Keeps the twin of a run folder.

    Args:
        run_dir: the run folder.
        target: where its twin is.
        every: seconds between copies.
        megabytes_per_second: how fast at most, on average; 0 for no limit.
        note: is told what a person should read.

    Raises:
        ConfigError: the target is no bucket that can be written, or a package is missing.
        DataError: it cannot be reached.
    """

    def __init__(
        self,
        run_dir: Path,
        target: str,
        every: float = 600.0,
        megabytes_per_second: float = 0.0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        scheme, _, rest = target.partition("://")
        if scheme not in SCHEMES or not rest:
            raise ConfigError(
                f"{target} is no bucket that can be written; give one of "
                f"{', '.join(f'{s}://BUCKET/FOLDER' for s in SCHEMES)}"
            )
        self.run_dir, self.target, self.every, self.note = run_dir, target, every, note
        self.rate = megabytes_per_second * 1e6
        self.complete = False  # whether the last copy was of all that is here
        self.copied = 0  # bytes
        self._there: dict[str, tuple[int, int, int]] = {}  # size, time and inode of what is there
        self._steps: set[int] = set()  # that this process has seen here
        self._end = threading.Event()
        self._store: Bucket | None = None

    @contextmanager
    def running(self, resume: bool) -> Iterator[None]:
        """Fetch what the twin has more of; copy while the block runs, and once more after it.

        Raises:
            ConfigError: the twin is of a run, and this is to be a new one.
            DataError: the bucket cannot be read or written; or the run is done, but not all of it
                could be copied.
        """
        self._begin(resume)
        thread = threading.Thread(target=self._work, name="sync", daemon=True)
        thread.start()
        how = "failed"
        try:
            yield
            how = "done"
        except Stopped:
            how = "stopped"
            raise
        finally:
            self._end.set()
            thread.join(PATIENCE[how])
            trouble = self._finish(PATIENCE[how]) if not thread.is_alive() else "a copy hangs"
            if trouble and how != "done":
                self.note(f"not all of {self.run_dir} is in {self.target}: {trouble}")
        if trouble:
            raise DataError(
                f"the run is done and saved in {self.run_dir}, but not all of it is in "
                f"{self.target} ({trouble}); copy it with `saccade runs sync`"
            )

    def once(self) -> None:
        """Copy what the twin lacks.

        Raises:
            DataError: it cannot be written, or has another content afterwards.
        """
        self._list()
        self._copy()

    def _begin(self, resume: bool) -> None:
        there = self._list()
        steps = sorted(_steps(there))
        if there and not resume:
            raise ConfigError(f"{self.target} holds a run; resume it or choose another place")
        if steps and steps[-1] > max(checkpoint.steps(self.run_dir), default=0):
            self._fetch(steps, there)
        self._copy()  # tells at once of what may not be written

    def _list(self) -> set[str]:
        """Ask what is there, and compare with what is here; return all names."""
        from saccade.data.remote.stores import Bucket, connect  # an extra

        store = connect(self.target)
        assert isinstance(store, Bucket)
        self._store, items = store, store.all("")
        self._there = {}
        for name, path in self._files().items():
            if name in items and store.same(path, items[name]):
                self._there[name] = _stamp(path)
        return set(items)

    def _fetch(self, steps: list[int], there: set[str]) -> None:
        """Bring every checkpoint that is intact, and what belongs to the run beside them."""
        from saccade.data.remote.folder import RemoteFolder  # an extra

        folder = RemoteFolder(self.target)

        def bring(names: list[str], to: Path, under: str = "") -> None:
            for name in names:
                place = to / name.removeprefix(under)
                place.parent.mkdir(parents=True, exist_ok=True)
                temporary = place.with_name(f".{place.name}.tmp-{os.getpid()}")
                shutil.copyfile(folder.path(name), temporary)
                temporary.replace(place)

        folders = [checkpoint.folder_of(self.run_dir, step) for step in steps]
        brought = [final.name for final in folders if self._intact(final, bring, there)]
        if not brought:
            raise CheckpointError(f"no checkpoint in {self.target} is intact; train anew elsewhere")
        rest = [n for n in there if not n.startswith("checkpoints/") and not LEFT_HERE.search(n)]
        bring(rest, self.run_dir)
        self.note(f"fetched {', '.join(brought)} and {len(rest)} files from {self.target}")
        for name, path in self._files().items():
            if name in there and not name.endswith(GROWING):
                self._there[name] = _stamp(path)

    def _intact(self, final: Path, bring: Callable[..., None], there: set[str]) -> bool:
        """Bring one checkpoint; say whether it is as it was written."""
        if final.exists():  # an older one, which is here
            return True
        under = f"checkpoints/{final.name}/"
        temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        bring([name for name in there if name.startswith(under)], temporary, under)
        temporary.rename(final)
        sync_folder(final.parent)
        try:
            checkpoint.verify(final)
        except CheckpointError as error:
            self.note(f"{error}, as it is in {self.target}")
            checkpoint.discard(final)
            return False
        return True

    def _files(self) -> dict[str, Path]:
        """List what belongs to the run, manifests last."""
        found = {
            path.relative_to(self.run_dir).as_posix(): path
            for path in sorted(self.run_dir.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        steps = {f"checkpoints/{checkpoint.folder_of(self.run_dir, s).name}/" for s in self._here()}

        def mine(name: str) -> bool:
            whole = not name.startswith("checkpoints/") or name.startswith(tuple(steps))
            return whole and not LEFT_HERE.search(name)

        names = sorted(filter(mine, found), key=lambda name: (_rank(name), name))
        return {name: found[name] for name in names}

    def _here(self) -> list[int]:
        return [
            step
            for step in checkpoint.steps(self.run_dir)
            if (checkpoint.folder_of(self.run_dir, step) / MANIFEST).is_file()
        ]

    def _copy(self) -> None:
        """Copy what has changed since it was copied, then delete what was pruned."""
        store = self._store
        assert store is not None
        steps = set(self._here())
        new = {n: p for n, p in self._files().items() if self._there.get(n) != _stamp(p)}
        with tempfile.TemporaryDirectory(dir=self.run_dir, prefix=".sync-") as place:
            for rank in sorted({_rank(name) for name in new}):
                batch = {name: path for name, path in new.items() if _rank(name) == rank}
                self._send(store, batch, Path(place))
        self._steps |= steps
        for gone in sorted(self._steps - set(checkpoint.steps(self.run_dir))):
            self._remove(store, checkpoint.folder_of(self.run_dir, gone).name)
            self._steps.discard(gone)

    def _send(self, store: "Bucket", files: Mapping[str, Path], place: Path) -> None:
        """Copy files as they are at this moment, and compare what has arrived."""
        frozen, stamps = dict[str, Path](), dict[str, tuple[int, int, int]]()
        for i, (name, path) in enumerate(files.items()):
            kept = place / f"{_rank(name)}-{i}"
            try:
                stamps[name] = _stamp(path)
                _freeze(path, kept)
            except FileNotFoundError:  # pruned, or replaced, since it was listed
                continue
            frozen[name] = kept
        began, sent = time.monotonic(), 0
        for some in _batches(frozen, one_by_one=bool(self.rate)):
            sabotage.at("sync.put", file=next(iter(some)))
            store.put(some)
            for name, kept in some.items():
                item = store.item(name)
                if item is None or not store.same(kept, item):
                    raise DataError(
                        f"{self.target}/{name} has another content than was written; it is "
                        "copied again"
                    )
                self._there[name] = stamps[name]
                sent += item.size
            if self.rate:
                self._end.wait(max(0.0, sent / self.rate - (time.monotonic() - began)))
        self.copied += sent

    def _remove(self, store: "Bucket", name: str) -> None:
        """Delete a checkpoint that is no longer here: first what makes it one."""
        under = f"checkpoints/{name}/"
        files = sorted(store.all(under.rstrip("/")))
        manifest = [name for name in files if name.endswith(MANIFEST)]
        for some in (manifest, [name for name in files if name not in manifest]):
            if some:
                store.remove(some)
        self._there = {n: s for n, s in self._there.items() if not n.startswith(under)}

    def _work(self) -> None:
        """Copy every so often until the end; after a failure sooner, then ever more rarely."""
        pause, failing = self.every, False
        while not self._end.wait(pause):
            try:
                self._copy()
            except (SaccadeError, OSError) as error:
                if not failing:
                    self.note(f"cannot copy to {self.target} ({error}); training goes on")
                pause = min(2 * pause if failing else 1.0, LONGEST_PAUSE, self.every)
                failing = True
                continue
            if failing:
                self.note(f"{self.target} has all of {self.run_dir} again")
            pause, failing = self.every, False

    def _finish(self, patience: float) -> str:
        """Copy the last of it, and compare all; return what is wrong, '' if nothing."""
        deadline, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                self.rate = 0.0
                self._copy()
                self._list()
                lacking = sorted(self._files().keys() - self._there.keys())
                if not lacking:
                    self.complete = True
                    return ""
                trouble = f"it lacks {', '.join(lacking[:4])}"
            except (SaccadeError, OSError) as error:
                trouble = str(error)
            if time.monotonic() + pause > deadline:
                return trouble
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _steps(names: set[str]) -> set[int]:
    """Return the steps of which there is a manifest."""
    found = (re.fullmatch(rf"checkpoints/step-(\d+)/{MANIFEST}", name) for name in names)
    return {int(match[1]) for match in found if match}


def _rank(name: str) -> int:
    """Return the order of copying: records before checkpoints, and manifests last."""
    if not name.startswith("checkpoints/"):
        return 0
    return 2 if name.endswith(f"/{MANIFEST}") else 1


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _freeze(path: Path, kept: Path) -> None:
    """Hold a file as it is: ours are replaced whole, so a link will do, or grow by lines."""
    if path.name.endswith(GROWING):
        raw = path.read_bytes()
        kept.write_bytes(raw[: raw.rfind(b"\n") + 1])
        return
    try:
        os.link(path, kept)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, kept)


def _batches(files: Mapping[str, Path], one_by_one: bool) -> Iterator[dict[str, Path]]:
    if one_by_one:
        yield from ({name: path} for name, path in files.items())
    elif files:
        yield dict(files)
