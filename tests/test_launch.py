"""The launch scripts: sound by shellcheck, and run here with stand-ins for cluster commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_scripts_are_sound() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck is not None
    assert len(SCRIPTS) == 3
    done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(os.access(script, os.X_OK) for script in SCRIPTS)


class Desk:
    """A place where some commands write down how they were called, and answer with a code."""

    def __init__(self, folder: Path) -> None:
        self.log, self.bin = folder / "calls.txt", folder / "bin"
        self.bin.mkdir()

    def stand_in(self, name: str, body: str = "", code: int = 0) -> None:
        path = self.bin / name
        said = f'echo {name} "$@" >> {self.log}'
        path.write_text(f"#!/usr/bin/env bash\n{said}\n{body}\nexit {code}\n")
        path.chmod(0o755)

    def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": f"{self.bin}:{os.environ['PATH']}", **env}
        command = ["bash", str(LAUNCH / script), *args]
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


TWO = ("--bucket", "s3://b/runs", "--recipe", "two_stream:a", "--recipe", "video_mae:b")


def test_recipes_are_trained_one_after_the_other_and_the_last_may_turn_it_off(desk: Desk) -> None:
    desk.stand_in("torchrun")
    desk.stand_in("nvidia-smi", "echo GPU 0; echo GPU 1; echo GPU 2; echo GPU 3")
    done = desk.run("cloud.sh", *TWO, "--data", "s3://b/d", "--", "--train.samples", "9")
    assert done.returncode == 0, done.stderr
    first, second = [call for call in desk.calls if call.startswith("torchrun")]
    assert first == (
        "torchrun --standalone --nproc-per-node 4 --max-restarts 3 -m saccade.cli train "
        "two_stream:a --out runs/two_stream-a --resume auto --sync s3://b/runs/two_stream-a "
        "--sync-every 10min --data s3://b/d --train.samples 9"
    )
    assert "--shutdown-command sudo shutdown -h +2" in second


def test_a_failed_run_ends_the_script_and_nothing_is_turned_off(desk: Desk) -> None:
    desk.stand_in("torchrun", code=6)
    desk.stand_in("nvidia-smi", code=1)
    done = desk.run("cloud.sh", *TWO)
    assert done.returncode == 6
    assert len([call for call in desk.calls if call.startswith("torchrun")]) == 1
    assert "--nproc-per-node 1 " in desk.calls[-1]
    assert "--shutdown-command" not in desk.calls[-1]


def test_sanity_and_dry_runs_turn_nothing_off(desk: Desk) -> None:
    desk.stand_in("torchrun")
    desk.stand_in("nvidia-smi", code=1)
    assert desk.run("cloud.sh", *TWO, "--sanity").returncode == 0
    told = desk.run("cloud.sh", *TWO, "--dry-run", "--processes", "2")
    assert "--shutdown-command" in told.stdout
    assert not any("--shutdown-command" in call for call in desk.calls)
    runs = [call for call in desk.calls if call.startswith("torchrun")]
    assert len(runs) == 2
    assert "--sync s3://b/runs/sanity/two_stream-a" in runs[0]
    assert runs[0].endswith("--train.samples 64 --train.batch-size 16")


@pytest.mark.parametrize("args", [(), ("--bucket", "s3://b"), ("--nonsense",)])
def test_what_is_missing_is_told(desk: Desk, args: tuple[str, ...]) -> None:
    done = desk.run("cloud.sh", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(("code", "end", "requeued"), [(75, 0, True), (6, 6, False), (0, 0, False)])
def test_a_job_that_was_preempted_is_queued_again(
    desk: Desk, code: int, end: int, requeued: bool
) -> None:
    desk.stand_in("saccade", 'echo "$RANK/$WORLD_SIZE/$LOCAL_RANK" >> ' + str(desk.log), code)
    desk.stand_in(
        "srun",
        'while [[ "$1" != bash ]]; do shift; done\nSLURM_PROCID=5 SLURM_LOCALID=1 "$@"\nexit $?',
    )
    desk.stand_in("scontrol", "echo node-a; echo node-b")
    told = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}
    done = desk.run("slurm.sh", "two_stream:a", "runs/a", "--data", "d", **told, SLURM_NNODES="2")
    assert done.returncode == end, done.stderr
    (call,) = [call for call in desk.calls if call.startswith("saccade")]
    assert call == (
        "saccade train two_stream:a --out runs/a --resume auto --train.layout hsdp "
        "--train.replicas 2 --data d"
    )
    assert "5/8/1" in desk.calls
    assert ("scontrol requeue 77" in desk.calls) == requeued


def test_an_array_is_shards(desk: Desk) -> None:
    desk.stand_in("saccade")
    told = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    assert desk.run("slurm_array.sh", "ablate", "two_stream", **told).returncode == 0
    assert desk.calls == ["saccade ablate two_stream --shard 3/8"]
    alone = desk.run("slurm_array.sh", "ablate")
    assert alone.returncode != 0
    assert "submit with sbatch --array=0-N" in alone.stderr


def test_a_pod_that_is_evicted_goes_on_elsewhere() -> None:
    job: Any = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert {"--resume=auto", "--sync-every=10min"} <= set(container["args"])
    ignored, failed = job["spec"]["podFailurePolicy"]["rules"]
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert not {0, 7, 75} & set(failed["onExitCodes"]["values"]), "these are tried again"
    shared = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert "/dev/shm" in shared
