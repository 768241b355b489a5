import ast
import errno
import math
import signal
from pathlib import Path

import pytest

import saccade
from saccade import sabotage
from saccade.errors import ConfigError, DataError


def test_nothing_happens_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sabotage.VARIABLE, raising=False)
    for point in sabotage.POINTS:
        sabotage.at(point)
    value = object()
    assert sabotage.spoil("loss", value) is value


def test_every_point_is_somewhere_in_the_code_and_every_one_there_is_known() -> None:
    used = {
        node.args[0].value
        for path in Path(saccade.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "sabotage"
        and isinstance(node.args[0], ast.Constant)
    }
    assert used == set(sabotage.POINTS)


def test_conditions_must_all_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "write.data:raise=ENOSPC@file=optimizer,call=2; step:raise=DataError@step=3,rank=0"
    monkeypatch.setenv(sabotage.VARIABLE, text)
    for file in ("a/optimizer.x", "a/objective.x", "b"):
        sabotage.at("write.data", file=file)
    with pytest.raises(OSError, match="No space left") as caught:
        sabotage.at("write.data", file="optimizer")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "optimizer"
    sabotage.at("write.data", file="optimizer")
    sabotage.at("step", step=2)
    monkeypatch.setenv("RANK", "1")
    sabotage.at("step", step=3)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(DataError):
        sabotage.at("step", step=3)


def test_values_are_spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "loss:nan@step=1;loss:spike=100@step=2;gradient:inf")
    assert math.isnan(sabotage.spoil("loss", 2.0, step=1))
    assert sabotage.spoil("loss", 2.0, step=2) == 200
    assert sabotage.spoil("loss", 2.0, step=3) == 2
    assert sabotage.spoil("gradient", 2.0) == math.inf
    sabotage.at("loss", step=1)  # a value is spoiled where it passes, not where something happens


def test_a_signal_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    monkeypatch.setenv(sabotage.VARIABLE, "save.begin:usr1")
    sabotage.at("save.begin")
    signal.signal(signal.SIGUSR1, before)
    assert came == [signal.SIGUSR1]


@pytest.mark.parametrize(
    "text", ["nowhere:kill9", "step", "step:explode", "step:raise=NOTHING", "step:term@day=1"]
)
def test_a_wrong_fault_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, text)
    with pytest.raises(ConfigError, match="points are start, open"):
        sabotage.at("step")
