"""Training on kept features is the same training, and never on those of another encoder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.loader import Loader
from saccade.data.transforms import Augment
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.experiments import feature_cache
from saccade.experiments.feature_cache import description
from saccade.experiments.source import Parts
from saccade.experiments.training import with_budget
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.world_model import PretrainedWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditioned, ActionConditionedConfig
from saccade.recipes.world_model import debug
from saccade.train import alarms

SAME = ("metrics.jsonl", "world_model/model.safetensors", "alarms.json")
TRAIN = replace(debug().train, samples=48, eval_every=3, save_every=3)
DEBUG = replace(debug(), eval_samples=8, train=TRAIN)


def prepared(training: WorldModelTraining) -> tuple[ActionConditioned, Parts]:
    """Build the networks and prepare the data, as ``run`` does."""
    objective, parts = training.build(), training.open()
    assert isinstance(objective, ActionConditioned)
    return objective, training.prepare(objective, parts, lambda _: None)


def in_cache(cache: Path, **options: Any) -> WorldModelTraining:
    return replace(DEBUG, source=replace(DEBUG.source, cache=str(cache)), **options)


def reseeded(training: WorldModelTraining) -> WorldModelTraining:
    """Begin with other weights, of the encoder too."""
    return replace(training, train=replace(training.train, seed=1))


def folders(cache: Path) -> set[str]:
    return {path.name for path in (cache / "features").iterdir()}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "encoded"
    DEBUG.run(folder)
    return folder


def test_training_is_the_same(encoded: Path, tmp_path: Path) -> None:
    told: list[str] = []
    training = in_cache(tmp_path / "cache", features="float32")
    training.run(tmp_path / "run", report=told.append)
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (encoded / name).read_bytes(), name
    assert any("features of 160 frames will take" in text for text in told)  # test has the others


def test_rounded_features_train_nearly_the_same(encoded: Path, tmp_path: Path) -> None:
    in_cache(tmp_path, features="bfloat16").run(tmp_path / "run")
    one, other = (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["eval/loss"]
        for run in (encoded, tmp_path / "run")
    )
    assert one != other
    assert one == pytest.approx(other, rel=1e-3)


def test_a_stopped_training_goes_on_to_the_same_numbers(encoded: Path, tmp_path: Path) -> None:
    """Begun by encoding, ended on kept features."""
    DEBUG.run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")
    with pytest.raises(CheckpointError, match="data"):  # rounded features are other data
        in_cache(tmp_path, features="float16").run(tmp_path, resume=True)
    in_cache(tmp_path, features="float32").run(tmp_path, resume=True)
    for name in SAME[:2]:
        assert (tmp_path / name).read_bytes() == (encoded / name).read_bytes()


def test_a_complete_cache_needs_no_pixels_but_of_one_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = in_cache(tmp_path, features="float32")
    prepared(training)
    read: list[int] = []
    pixels = CachedEpisodes.pixels

    def watched(self: CachedEpisodes, episode: int, camera: str, frames: Any) -> Any:
        read.extend([episode] * len(frames))
        return pixels(self, episode, camera, frames)

    monkeypatch.setattr(CachedEpisodes, "pixels", watched)
    with_budget(training, samples=16, seed=0).run(tmp_path / "run")
    assert len(read) == 1


def test_batches_are_the_same_but_for_the_pixels(tmp_path: Path) -> None:
    objective, kept = prepared(in_cache(tmp_path, features="float32"))
    plain = DEBUG.open()
    for one, other in ((plain.train, kept.train), (plain.select, kept.select)):
        assert one.fingerprint == other.fingerprint
        seen, found = (
            next(Loader(part, DEBUG.window, plain.camera, 4).batches(2)) for part in (one, other)
        )
        assert all(torch.equal(found[k], seen[k]) for k in ("state", "action", "episode", "key"))
        assert found["video"].numel() == 0
        assert "features" in found
        assert torch.equal(found["features"], objective.sample(seen).features)
        assert torch.equal(objective(found)[0], objective(seen)[0])
    assert kept.test is not None
    assert kept.test.features(0, torch.zeros(1, dtype=torch.int64).numpy()) is None


def test_workers_read_the_same(tmp_path: Path) -> None:
    kept = prepared(in_cache(tmp_path, features="bfloat16"))[1]
    batches = [
        next(Loader(kept.train, DEBUG.window, kept.camera, 4, workers=workers).batches(1))
        for workers in (0, 2)
    ]
    one, other = (clip.get("features") for clip in batches)
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


def test_a_leak_would_be_seen_in_kept_features(tmp_path: Path) -> None:
    objective, kept = prepared(in_cache(tmp_path, features="bfloat16"))
    clip = next(Loader(kept.train, DEBUG.window, kept.camera, 4).batches(0))
    assert alarms.leak(objective, clip) == []
    inputs, blind = objective.inputs, objective.without_target
    objective.inputs = lambda clip: {"all": objective.sample(clip).features}
    assert "'all' depends on the target" in alarms.leak(objective, clip)[0].detail
    objective.inputs, objective.without_target = inputs, lambda clip: clip
    assert "changed no feature" in alarms.leak(objective, clip)[0].detail
    objective.without_target = blind
    alarm, numbers = alarms.dead_gradients(objective, clip, "error")
    assert not alarm
    assert numbers


def test_another_encoder_has_another_cache(tmp_path: Path) -> None:
    training = in_cache(tmp_path, features="float32")
    prepared(training)
    (first,) = folders(tmp_path)
    prepared(training)
    assert folders(tmp_path) == {first}
    prepared(reseeded(training))
    assert len(folders(tmp_path)) == 2
    prepared(in_cache(tmp_path, features="float16"))
    assert len(folders(tmp_path)) == 3
    about = json.loads((tmp_path / "features" / first / "about.json").read_text())
    assert about["camera"] == "front"
    assert about["data"].endswith("@32")


def test_the_key_is_all_that_features_depend_on() -> None:
    objective, parts = DEBUG.build(), DEBUG.open()
    assert isinstance(objective, ActionConditioned)
    model, train = objective.model, DEBUG.train
    known = description(model, parts, "float32", train)
    centre = replace(DEBUG, source=replace(DEBUG.source, crop="centre")).open()
    larger = DEBUG.source.open(40)
    others = [
        description(model, centre, "float32", train),
        description(model, larger, "float32", train),
        description(model, parts._replace(camera="side"), "float32", train),
        description(model, parts, "float16", train),
        description(model, parts, "float32", replace(train, precision="bfloat16")),
    ]
    model.config = replace(model.config, normalise=False)
    others.append(description(model, parts, "float32", train))
    model.config = replace(model.config, normalise=True)
    assert description(model, parts, "float32", train) == known
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[0] += 1e-3
    others.append(description(model, parts, "float32", train))
    texts = {json.dumps(each) for each in (known, *others)}
    assert len(texts) == 1 + len(others)


def test_a_stale_cache_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of our code that forgot to change the version."""
    monkeypatch.setattr(feature_cache, "digest_encoder", lambda _: "the same")
    training = in_cache(tmp_path, features="float32")
    prepared(training)
    with pytest.raises(DataError, match=r"away from what the encoder makes .* delete that folder"):
        prepared(reseeded(training))


def test_a_damaged_cache_stops_the_training(tmp_path: Path) -> None:
    training = in_cache(tmp_path, features="float32")
    prepared(training)
    (path,) = (tmp_path / "features").glob("*/rows.bin")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="have not the checksum"):
        training.run(tmp_path / "run")


def test_the_encoder_is_known_by_its_weights_not_by_its_folder(
    encoded: Path, tmp_path: Path
) -> None:
    """A model that was trained further has the same encoder, and finds its features."""
    training = in_cache(tmp_path, features="float32")
    prepared(training)
    base = PretrainedWorldModelConfig(folder=encoded / "world_model")
    prepared(replace(training, objective=ActionConditionedConfig(model=base)))
    assert len(folders(tmp_path)) == 1


def test_augmentation_is_refused(tmp_path: Path) -> None:
    training = in_cache(tmp_path, features="float32", augment=Augment(jitter=0.2))
    with pytest.raises(ConfigError, match=r"augment asks for others .*jitter=0.2"):
        training.run(tmp_path / "run")
