import json
from dataclasses import replace

import pytest

from saccade.deploy.protocol import openpi_libero
from saccade.errors import ConfigError
from saccade.evals.players import contract_of
from saccade.evals.protocols import PROTOCOLS, named
from tests.deploy.toy import ToyScene

SUITES = [f"libero_{name}" for name in ("spatial", "object", "goal", "10", "90")]


@pytest.mark.parametrize(
    ("name", "trials", "horizons", "settle", "render", "seeds"),
    [
        ("openvla", 50, (220, 280, 300, 520, 400), 10, 256, (0, 7)),
        ("lerobot", 10, (280, 280, 300, 520, 400), 10, 256, (1000, 1000)),
        ("openpi", 50, (220, 280, 300, 520, 400), 10, 256, (7, 7)),
        ("bc", 20, (600, 600, 600, 600, 600), 5, 128, (10000, 10000)),
    ],
)
def test_constants_are_those_of_the_authors(
    name: str,
    trials: int,
    horizons: tuple[int, ...],
    settle: int,
    render: int,
    seeds: tuple[int, int],
) -> None:
    found = named(name)
    assert found.trials == trials
    assert tuple(found.horizon(suite) for suite in SUITES) == horizons
    assert (found.settle, found.pictures.render) == (settle, render)
    assert (found.env_seed, found.policy_seed) == seeds
    assert found.env_seed_per_trial == (name == "lerobot")
    assert found.execute == (5 if name == "openpi" else 0)
    assert found.title == name


def test_pictures_differ_as_published() -> None:
    vla, robot, bc = (named(name).pictures for name in ("openvla", "lerobot", "bc"))
    assert (vla.jpeg, vla.resize, vla.orientation) == (95, 224, "rot180")
    assert (robot.jpeg, robot.resize, robot.orientation) == (0, 0, "rot180")
    pi = named("openpi").pictures
    assert (pi.jpeg, pi.resize, pi.resample, pi.orientation) == (0, 224, "bilinear", "rot180")
    assert bc.orientation == "raw"
    assert len(vla.state_names) == 8
    assert len(bc.state_names) == 9


def test_openpis_server_is_promised_what_its_policies_were_trained_on() -> None:
    promised = contract_of(named("openpi").pictures, ToyScene())
    assert replace(promised, frame_size=(256, 256)) == openpi_libero()


def test_a_change_is_said_and_what_stays_is_not() -> None:
    found = named("openvla").changed("libero_spatial", horizon=200, trials=50, settle=None)
    assert found.title == "openvla, horizon 200 instead of 220"
    assert found.horizon("libero_spatial") == 200
    assert found.horizon("libero_object") == 280
    again = found.changed("libero_spatial", settle=0, env_seed=3)
    assert again.title == f"{found.title}, settle 0 instead of 10, env seed 3 instead of 0"
    assert named("openvla").title == "openvla"


def test_a_suite_without_a_horizon_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"no horizon for toy.*give --horizon"):
        named("bc").horizon("toy")
    assert named("bc").changed("toy", horizon=9).horizon("toy") == 9
    with pytest.raises(ConfigError, match="there are openvla, lerobot"):
        named("vla")


@pytest.mark.parametrize("value", [{"horizon": 0}, {"trials": 0}, {"settle": -1}, {"execute": -1}])
def test_senseless_values_are_refused(value: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(value))} must be at least"):
        named("bc").changed("libero_goal", **value)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_card_holds_everything_as_json(name: str) -> None:
    protocol = named(name)
    suite = protocol.horizons[0][0]
    card = json.loads(json.dumps(protocol.card(suite)))
    fields = set(vars(protocol)) - {"horizons"}
    assert card.keys() == fields | {"title", "horizon"}
    assert card["horizon"] == protocol.horizon(suite)
    assert card["source"]
