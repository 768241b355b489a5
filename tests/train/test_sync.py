"""A bucket on loopback, behind a proxy that fails as networks do."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade import sabotage
from saccade.data.remote.stores import Bucket, connect
from saccade.errors import CheckpointError, ConfigError, DataError, NumericError, Stopped
from saccade.train import checkpoint, sync
from saccade.train.log import Progress
from saccade.train.sync import Sync, seconds_of
from tests.data.remote.conftest import moto, proxy
from tests.fixtures.clouds import LARGE, clouds
from tests.fixtures.fault_proxy import Fault, FaultProxy
from tests.train import toy
from tests.train.test_engine import Interrupt, metrics

__all__ = ["moto", "proxy"]  # fixtures


@pytest.fixture(autouse=True)
def credentials(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(moto: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty place in the bucket."""
    name = request.node.name.partition("[")[0]
    yield f"s3://robots/{name}"
    for key in names(moto, name):
        moto.delete_object(Bucket="robots", Key=f"{name}/{key}")


def names(moto: Any, name: str) -> list[str]:
    listed = moto.list_objects_v2(Bucket="robots", Prefix=f"{name}/").get("Contents", ())
    return [each["Key"].removeprefix(f"{name}/") for each in listed]


def contents(moto: Any, name: str) -> dict[str, bytes]:
    return {
        key: moto.get_object(Bucket="robots", Key=f"{name}/{key}")["Body"].read()
        for key in names(moto, name)
    }


def local(run_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def trained(
    run_dir: Path, bucket: str, every: float = 0.1, notes: list[str] | None = None, **given: Any
) -> Sync:
    said: Callable[[str], None] = notes.append if notes is not None else lambda _: None
    twin = Sync(run_dir, bucket, every, note=said)
    run_dir.mkdir(exist_ok=True)
    resume = given.get("resume", False)
    with twin.running(bool(resume)):
        toy.run(run_dir, wait=given.pop("wait", 0.02), **given)
    return twin


def test_the_bucket_has_what_the_folder_has_and_manifests_come_last(
    tmp_path: Path, bucket: str, moto: Any, proxy: FaultProxy
) -> None:
    twin = trained(tmp_path / "run", bucket)
    assert twin.complete
    name = bucket.rpartition("/")[2]
    assert contents(moto, name) == local(tmp_path / "run")
    for step in (9, 12):
        part = f"step-{step:08d}/"
        wrote = [path for path in proxy.wrote if part in path and path.startswith("PUT")]
        assert wrote[-1].endswith("MANIFEST.json")
        assert len(wrote) == len(set(wrote)) == 4, "each file once"
    assert not any(f"step-{12:08d}" in path and "DELETE" in path for path in proxy.wrote)


def test_an_empty_machine_goes_on_to_the_same_numbers(
    tmp_path: Path, bucket: str, moto: Any
) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path / "first", bucket, progress=Interrupt(7))
    shutil.rmtree(tmp_path / "first")
    notes = list[str]()
    trained(tmp_path / "second", bucket, notes=notes, resume="auto")
    assert any("fetched step-00000004, step-00000006, step-00000007 and" in note for note in notes)
    toy.run(tmp_path / "whole")
    assert metrics(tmp_path / "second") == metrics(tmp_path / "whole")
    assert contents(moto, bucket.rpartition("/")[2]) == local(tmp_path / "second")


def test_a_damaged_checkpoint_in_the_bucket_is_told_and_an_older_one_used(
    tmp_path: Path, bucket: str, moto: Any
) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path / "first", bucket, progress=Interrupt(7))
    key = f"{bucket.rpartition('/')[2]}/checkpoints/step-00000007/optimizer.safetensors"
    raw = moto.get_object(Bucket="robots", Key=key)["Body"].read()
    moto.put_object(Bucket="robots", Key=key, Body=raw[:-1] + bytes([raw[-1] ^ 1]))
    notes = list[str]()
    trained(tmp_path / "second", bucket, notes=notes, resume="auto")
    assert any("is damaged in bytes" in note and "as it is in s3://" in note for note in notes)
    toy.run(tmp_path / "whole")
    assert metrics(tmp_path / "second") == metrics(tmp_path / "whole")


def test_pruned_checkpoints_go_from_the_bucket_too_and_nothing_else(
    tmp_path: Path, bucket: str, moto: Any
) -> None:
    name = bucket.rpartition("/")[2]
    moto.put_object(
        Bucket="robots", Key=f"{name}/checkpoints/step-00000001/MANIFEST.json", Body=b""
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    toy.run(run_dir, keep=9)
    twin = Sync(run_dir, bucket)
    twin.once()
    checkpoint.prune(run_dir, 1, 0, set())
    twin.once()
    steps = sync._steps(set(names(moto, name)))
    assert steps == {1, 12}, "what another machine put there stays"


def test_an_outage_stops_nothing_and_is_made_up_for(
    tmp_path: Path, bucket: str, moto: Any, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "LONGEST_PAUSE", 0.2)
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.3")
    notes = list[str]()

    def outage(progress: Progress) -> None:
        told = any("training goes on" in note for note in notes)
        proxy.down = 3 <= progress.step < 38 and not told

    settings: dict[str, Any] = {"wait": 0.2, "samples": 40 * 8, "save_every": 20}
    twin = trained(tmp_path / "run", bucket, notes=notes, progress=outage, **settings)
    assert twin.complete
    assert any("training goes on" in note for note in notes)
    assert contents(moto, bucket.rpartition("/")[2]) == local(tmp_path / "run")


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=503), Fault(cut=0.0), Fault(cut=0.5), Fault(flip=True)],
    ids=str,
)
def test_what_breaks_an_upload_leaves_no_part_of_it(
    tmp_path: Path, bucket: str, moto: Any, proxy: FaultProxy, fault: Fault
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    toy.run(run_dir)
    proxy.uploads.extend([fault] * 2)
    twin = Sync(run_dir, bucket)
    if fault.flip:  # the store accepts what it is given; we look again
        with pytest.raises(DataError, match="has another content than was written"):
            twin.once()
        there = names(moto, bucket.rpartition("/")[2])
        assert not sync._steps(set(there)), "no manifest before all else is right"
        proxy.uploads.clear()
    twin.once()
    assert contents(moto, bucket.rpartition("/")[2]) == local(run_dir)


@pytest.mark.parametrize(
    ("fault", "raised"),
    [("loss:nan@step=5", NumericError), ("save.begin:raise=EIO@step=3", CheckpointError)],
)
def test_a_run_that_fails_is_copied_too(
    tmp_path: Path,
    bucket: str,
    moto: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    raised: type[Exception],
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, fault)
    with pytest.raises(raised):
        trained(tmp_path / "run", bucket, every=99.0)
    assert contents(moto, bucket.rpartition("/")[2]) == local(tmp_path / "run")


def test_what_cannot_be_is_told_before_training(
    tmp_path: Path, bucket: str, moto: Any, proxy: FaultProxy
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.json").write_text("{}")
    proxy.uploads.extend([Fault(status=403)] * 3)
    with pytest.raises(DataError, match=r"cannot be fetched: .* 403; check the credentials|403"):
        trained(tmp_path / "run", bucket)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    proxy.uploads.clear()
    with pytest.raises(DataError, match="404"):
        trained(tmp_path / "run", "s3://no-such-bucket/run")
    for wrong in ("https://host/run", "runs/a", "s3://"):
        with pytest.raises(ConfigError, match="no bucket that can be written"):
            Sync(tmp_path, wrong)


def test_another_run_in_the_bucket_is_not_mixed_with_a_new_one(tmp_path: Path, bucket: str) -> None:
    trained(tmp_path / "first", bucket)
    with pytest.raises(ConfigError, match="holds a run; resume it or choose another place"):
        trained(tmp_path / "second", bucket)


def test_a_slow_copy_is_possible(tmp_path: Path, bucket: str) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    toy.run(run_dir, samples=16)
    size = sum(map(len, local(run_dir).values()))
    began = time.monotonic()
    Sync(run_dir, bucket, megabytes_per_second=size / 1e6).once()
    assert time.monotonic() - began > 0.9


def test_a_half_written_file_never_travels(tmp_path: Path, bucket: str, moto: Any) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n{"step": ')
    (run_dir / ".half.tmp-1").write_text("x")
    (left := checkpoint.folder_of(run_dir, 3).with_name("step-00000003.tmp-9")).mkdir(parents=True)
    (left / "MANIFEST.json").write_text("{}")
    checkpoint.folder_of(run_dir, 4).mkdir()
    (checkpoint.folder_of(run_dir, 4) / "state.json").write_text("{}")
    Sync(run_dir, bucket).once()
    assert contents(moto, bucket.rpartition("/")[2]) == {"metrics.jsonl": b'{"step": 1}\n'}


def test_large_files_go_in_parts(
    tmp_path: Path, bucket: str, moto: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saccade.data.remote import stores

    monkeypatch.setattr(stores, "PART", 5 * 2**20)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "model.safetensors").write_bytes(raw := os.urandom(12 * 2**20))
    Sync(run_dir, bucket).once()
    assert contents(moto, bucket.rpartition("/")[2]) == {"model.safetensors": raw}
    twin = Sync(run_dir, bucket)
    twin.once()
    assert twin.copied == 0, "it is known by its checksum"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10min", 600), ("1.5h", 5400), ("2 m", 120)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "-1", "5 weeks", "0"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        seconds_of(text)


def test_the_bucket_s_records_are_whole_lines(tmp_path: Path, bucket: str, moto: Any) -> None:
    trained(tmp_path / "run", bucket)
    found = contents(moto, bucket.rpartition("/")[2])
    for name in ("metrics.jsonl", "timing.jsonl"):
        assert [json.loads(line) for line in found[name].splitlines()]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's package
@pytest.mark.parametrize("target", ["gs://robots/run", "hf://datasets/lab/robots/run"])
def test_other_clouds_keep_the_same_and_give_it_back(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against stand-ins for the web interfaces of Google's storage and of the hub."""
    files = {"other/x": b"not ours"}
    with clouds(files) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_nobody")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # no stand-in
        notes = list[str]()
        with pytest.raises(Stopped):
            trained(tmp_path / "first", target, notes=notes, progress=Interrupt(7))
        assert notes == []
        sizes = [len(data) for data in files.values()]
        assert max(sizes) > LARGE > min(sizes), "both ways of the hub"
        shutil.rmtree(tmp_path / "first")
        twin = trained(tmp_path / "second", target, notes=notes, resume="auto")
        assert twin.complete
        assert any("fetched step-00000004, step-00000006, step-00000007" in n for n in notes)
        toy.run(tmp_path / "whole")
        assert metrics(tmp_path / "second") == metrics(tmp_path / "whole")
        kept = {n.removeprefix("run/"): data for n, data in files.items() if n != "other/x"}
        assert kept == local(tmp_path / "second")
    assert files["other/x"] == b"not ours"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # gcsfs does
def test_google_takes_large_files_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(11 * 2**20))
    files = dict[str, bytes]()
    with clouds(files) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        store = connect("gs://robots/run")
        assert isinstance(store, Bucket)
        store.put({"big": big})
        item = store.item("big")
        assert item is not None
        assert store.same(big, item)
        files["run/big"] = bytes(11 * 2**20)
        item = store.item("big")
        assert item is not None
        assert not store.same(big, item)
