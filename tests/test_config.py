import json
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import pytest

from saccade.config import Config, from_dict, to_dict
from saccade.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InnerConfig(Config[int]):
    size: int = 3

    def build(self) -> int:
        return self.size


@dataclass(frozen=True, kw_only=True)
class OuterConfig(Config[list[int]]):
    root: Path = Path("data/x")
    cameras: tuple[str, ...] = ("front", "wrist")
    parts: tuple[InnerConfig, ...] = (InnerConfig(), InnerConfig(size=5))
    limit: float | None = None

    def build(self) -> list[int]:
        return [part.build() for part in self.parts]


def through_json(value: Any) -> Any:
    return from_dict(json.loads(json.dumps(to_dict(value))))


def test_a_nested_config_survives_json() -> None:
    config = OuterConfig(root=Path("/elsewhere"), limit=0.1)
    assert through_json(config) == config
    assert through_json(config).build() == [3, 5]
    assert isinstance(through_json(config).root, Path)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        InnerConfig().size = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_defaults_are_written_out() -> None:
    assert to_dict(InnerConfig()) == {"type": f"{__name__}:InnerConfig", "size": 3}


@pytest.mark.parametrize(
    ("field", "hint"), [("sise", "did you mean 'size'"), ("colour", r"it has \['size'\]")]
)
def test_an_unknown_field_is_an_error_with_a_hint(field: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no field '{field}'; {hint}"):
        from_dict({"type": f"{__name__}:InnerConfig", field: 1})


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "subprocess:Popen",
        "saccade.errors:DataError",
        "saccade.nowhere:Config",
        "saccade.config:nothing",
        f"{__name__}:through_json",
        "nonsense",
        None,
    ],
)
def test_only_dataclasses_that_we_know_are_built(kind: str | None) -> None:
    with pytest.raises(ConfigError, match="not a config that may be built"):
        from_dict({"type": kind, "args": "true"})


def test_a_file_cannot_make_us_import_code(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="import the module that defines it first"):
        from_dict({"type": "stranger:Config"})
    assert "stranger" not in sys.modules
