"""``saccade serve`` answers until a signal comes, and says what is wrong before it listens."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from saccade.commands import serve
from saccade.deploy.client import RemoteActor
from saccade.deploy.runner import LocalActor
from saccade.errors import CheckpointError, ConfigError
from tests.deploy.serving import observed
from tests.deploy.toy import CONTRACT, ToyConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an exported policy. Read only."""
    folder, config = tmp_path_factory.mktemp("run"), ToyConfig(noise=1.0)
    config.build().save_pretrained(folder / "policy", config)
    return folder


@contextmanager
def started(*args: object) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process of its own, which knows the toy."""
    code = (
        "import sys, tests.deploy.toy; from saccade.commands.serve import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_serves_in_a_process_until_it_is_told_to_stop(run: Path) -> None:
    with started(run, "--port", 0, "--device", "cpu") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(rf"serving contract {CONTRACT.digest()} on (ws://\S+), cpu\n", line)
        assert found
        with RemoteActor(found[1]) as actor:
            answer = actor.act(observed(), (1, 2))
            local = LocalActor(run / "policy")
            np.testing.assert_array_equal(answer, local.act(observed(), (1, 2)))
            process.terminate()  # while a client is there
            assert process.wait(20) == 0


def test_ctrl_c_ends_it_with_the_code_of_an_interruption(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answers = []

    def ask_and_interrupt() -> None:
        try:
            with RemoteActor(f"ws://127.0.0.1:{port}", patience=20.0) as actor:
                answers.append(actor.act(observed(), (1, 2)))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = Thread(target=ask_and_interrupt)
    thread.start()
    assert serve.main([str(run), "--port", str(port), "--device", "cpu"]) == 130
    thread.join()
    assert len(answers) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert f"health: http://127.0.0.1:{port}/healthz" in capsys.readouterr().out


def test_what_cannot_be_served_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        serve.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="give a port below 65536"):
        serve.main([str(run), "--port", "99999"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port} "):
            serve.main([str(run), "--port", str(port), "--device", "cpu"])
        assert signal.getsignal(signal.SIGINT) is before


def test_sizes_are_read_as_people_write_them() -> None:
    read = {"32MB": 32_000_000, "1.5 k": 1500, "2GB": 2 * 10**9, "700": 700, "7B": 7, "1m": 10**6}
    assert {text: serve.size_of(text) for text in read} == read
    for text in ("", "MB", "-1MB", "1TB", "many"):
        with pytest.raises(ConfigError, match="expected a size such as 32MB"):
            serve.size_of(text)
