import importlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.children import Child, script

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("timing")


@pytest.fixture
def train_step(timing: ModuleType) -> ModuleType:
    return importlib.import_module("train_step")


def run(name: str, *options: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own; return its only line."""
    with TemporaryDirectory() as folder:
        done = Child(Path(folder), script, BENCHMARKS / name, *options).wait()
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_a_ratio_is_that_of_the_median_round(timing: ModuleType) -> None:
    # the machine is twice as fast in the second round and ten times as fast in the third
    assert timing.ratio([3.0, 8.0, 30.0], [1.0, 2.0, 20.0]) == 3.0


def test_every_variant_is_timed_once_per_round(
    timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SLICE", 1e-9)
    calls: list[str] = []

    def work(name: str, amount: int) -> int:
        calls.append(name)
        return amount

    rates = timing.measure({"a": lambda: work("a", 1), "b": lambda: work("b", 0)}, repeats=5)
    assert [sorted(calls[i : i + 2]) for i in range(2, 12, 2)] == [["a", "b"]] * 5
    assert len(rates["a"]) == 5
    assert min(rates["a"]) > 0
    assert rates["b"] == [0.0] * 5


def test_stock_layers_compute_the_same_and_a_difference_is_noticed(train_step: ModuleType) -> None:
    options = train_step.Options(size="tiny", batch=2)
    ours, stock = (
        train_step.load("two_stream:strong", name, options) for name in ("ours", "stock")
    )
    layers = [m for m in stock.module.modules() if isinstance(m, torch.nn.TransformerEncoderLayer)]
    blocks = [m for m in ours.module.modules() if isinstance(m, train_step.Block)]
    assert len(layers) == len(blocks) == 2 * 6 + 2 + 2 * 2  # streams, exchanges, decoders
    assert not any(isinstance(m, train_step.Block) for m in stock.module.modules())
    train_step.require_equal(ours, stock)
    with torch.no_grad():
        layers[0].linear1.weight.mul_(1.5)
    with pytest.raises(AssertionError, match="not close"):
        train_step.require_equal(ours, stock)


def test_train_step() -> None:
    toy = ("--size", "tiny", "--batch", "1", "--repeats", "1")
    result = run("train_step.py", "--methods", "video_mae:original", *toy)
    assert (result["benchmark"], result["method"]) == ("train_step", "video_mae:original")
    for name in ("ours", "stock", "ratio", "transformers", "ratio_transformers"):
        assert result[name] > 0
    assert result["peak_mb"].keys() == {"ours", "stock", "transformers"}
    assert min(result["peak_mb"].values()) > 4 * 4 * result["sizes"]["parameters"] / 1e6
    assert (result["device"], result["threads"], result["batch"]) == ("cpu", 1, 1)


def test_features() -> None:
    toy = ("--image-size", "32", "--dim", "64", "--depth", "1", "--predictor-dim", "64")
    result = run("features.py", *toy, "--predictor-depth", "1", "--repeats", "1")
    assert (result["benchmark"], result["peer"]) == ("features", "encoding every batch")
    for name in ("ours", "peer_samples_per_second", "ratio", "build_frames_per_second"):
        assert result[name] > 0
    sizes = {"pixels": 3 * 32 * 32, "float32": 4 * 4 * 64, "float16": 512, "bfloat16": 512}
    assert result["bytes_per_frame"] == sizes
    assert result["loss_difference"]["float32"] == 0
    assert 0 < result["loss_difference"]["bfloat16"] < 0.01


def test_loader() -> None:
    result = run("loader.py", "--episodes", "2", "--length", "15", "--size", "32", "--repeats", "1")
    assert (result["benchmark"], result["peer"]) == ("loader", "PyAV seek loop")
    for name in ("ours", "peer_frames_per_second", "ratio", "cache_build_frames_per_second"):
        assert result[name] > 0


def test_video() -> None:
    toy = ("--seconds", "2", "--height", "96", "--repeats", "1", "--gops", "30")
    result = run("video.py", *toy)
    assert (result["benchmark"], result["gop"]) == ("video", 30)
    for kind in ("pair", "clip"):
        assert result[kind]["ms"].keys() == {"ours", "pyav", "frame_store", "clips"}
        assert min(result[kind]["ms"].values()) > 0
        assert result[kind]["ours_times_faster_than"]["pyav"] > 0


def test_hdf5() -> None:
    toy = ("--demos", "2", "--length", "24", "--size", "16", "--repeats", "1")
    result = run("hdf5.py", *toy)
    assert (result["benchmark"], result["peer"]) == ("hdf5", "h5py, opened per item")
    for case in (result["step"], result["policy"], result["chunk"], result["chunk"]["slice"]):
        assert min(case[name] for name in ("peer_samples_per_second", "ratio", "ceiling")) > 0
    watched = run("hdf5.py", *toy, "--soak", "50")["soak"]
    assert {name: found["episodes"] for name, found in watched.items()} == {"1x": 4, "10x": 40}
    assert all(found["late"]["rss"] > 0 for found in watched.values())


def test_mamba() -> None:
    toy = ("--cases", "scan", "--hows", "eager", "--batch", "1", "--length", "9")
    result = run("mamba.py", *toy, "--dim", "8", "--state", "4", "--repeats", "1")
    assert (result["benchmark"], result["how"]) == ("mamba_scan", "eager")
    assert result["ours"] > 0
    assert result["error"] < 1e-5


def test_acting() -> None:
    result = run("acting.py", "--cases", "latency", "--sizes", "tiny", "--repeats", "3")
    assert (result["benchmark"], result["sizes"]["image_size"]) == ("policy_latency", 64)
    assert result["ours"] > 0
    assert result["ratio"] > 1, "a policy takes longer than its encoder"


def test_collection() -> None:
    result = run("collection.py", "--size", "32", "--episodes", "1", "--repeats", "1")
    assert (result["benchmark"], result["peer"]) == ("collection", "env.render()")
    for name in ("ours", "peer_frames_per_second", "ratio", "episodes"):
        assert result[name] > 0


@pytest.fixture
def probing(timing: ModuleType) -> ModuleType:
    return importlib.import_module("probing")


def test_probing_ridge(probing: ModuleType) -> None:
    result = probing.ridge(samples=1200, held_out=400, dim=16, out=2, repeats=1)
    assert 1 > result["ours_r2"] >= result["peer_r2"] > 0
    for name in ("ours", "peer", "peer_without_loader"):
        assert result[f"{name}_seconds"] > 0
    assert min(result["ratio"], result["ratio_without_loader"]) > 1


@pytest.mark.parametrize("loader", [True, False])
def test_the_sgd_probe_learns_a_linear_target(
    probing: ModuleType, loader: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("peers.sgd_probe"), "LR", 0.05)
    torch.manual_seed(0)
    x = torch.randn(1500, 4)
    y, mean = x @ torch.tensor([[0.1], [-0.2], [0.3], [0.0]]), torch.ones(1)
    parts = (x[:1000], y[:1000] + mean), (x[1000:], y[1000:] + mean)

    def score(guess: torch.Tensor) -> float:
        return 1 - float(((guess - parts[1][1]) ** 2).mean() / y[1000:].var(correction=0))

    probe = probing.SgdProbe(*parts, score, loader)
    start = score(probe.layer(x[1000:]).detach())
    for _ in range(probing.EPOCHS):
        probe.epoch()
    assert start < 0
    assert probe.best > 0.99
    kept = probe.best
    probe.layer.weight.data.zero_()
    probe.epoch()
    assert probe.best == kept, "the best epoch is kept"


def test_probing_features(probing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"frames": 2, "batch": 2, "precision": "float32", "repeats": 1}
    result = probing.features("dinov2-small", **given, gaps=(1,))
    assert result["difference"] < 1e-5
    assert (result["frames"], result["images_shown"]) == (2, 2)
    rates = (result[f"{who}_images_per_second"] for who in ("ours", "peer"))
    assert min(*rates, result["ratio"]) > 0
    another = SimpleNamespace(deepcopy=lambda network: type(network)(network.config).eval())
    monkeypatch.setattr(probing, "copy", another)
    with pytest.raises(ValueError, match="different features"):
        probing.features("dinov2-small", **given, gaps=())


def test_probing_store(
    probing: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["probing.py", "store", "--encoder", "r3m-18", "--frames", "8"])
    probing.main()
    result = json.loads(capsys.readouterr().out)
    assert result["kilobytes_per_frame"] == pytest.approx(4 * 512 / 1e3)
    cells = 2 * 7 * 7 * 512 / 1e3
    both = result["kilobytes_per_frame_with_cells"]
    assert both == pytest.approx(result["kilobytes_per_frame"] + cells, rel=1e-3)
    hour = result["megabytes_per_hour_with_cells"]
    assert hour == pytest.approx(both * 3600 * result["frames_per_second"] / 1e3, rel=1e-3)


def test_rlds(timing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(timing, "SLICE", 1e-9)
    rlds = importlib.import_module("rlds")
    options = rlds.Options(episodes=2, steps=18, clips=2, repeats=1)
    rlds.write_data(tmp_path / "droid", options)
    rlds.random_clips(tmp_path / "droid", options)
    result = json.loads(capsys.readouterr().out)
    assert (result["benchmark"], result["unit"]) == ("rlds_random_clips", "frames/s")
    assert min(result["ours"], result["peer_frames_per_second"], result["ratio"]) > 0
    for variant in ("float32", "uint8"):
        found = rlds.run_slice(variant, tmp_path / "droid", options.clips)
        assert min(found.values()) > 0
    slices = {"uint8": [found] * 3, "float32": [found] * 3, "skip": [found | {"cpu": 1.0}] * 3}
    rlds.report(
        {name: [s | {"first": 1.0} for s in all_] for name, all_ in slices.items()}, options
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["output"] for line in lines] == ["float32", "uint8"]
    assert lines[0]["ratio"] == pytest.approx(1 / found["cpu"], rel=1e-3)


@pytest.fixture
def world_model(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(timing, "SLICE", 1e-9)
    return importlib.import_module("world_model")


def test_the_notebook_s_way_is_that_of_the_official_code(world_model: ModuleType) -> None:
    from tests.fixtures.vjepa2.predictor import CASES, inputs, stored, weights

    predictor = CASES["wide"].build()
    predictor.load_state_dict(weights(predictor))
    given = inputs(CASES["wide"])
    peer = world_model.NotebookWay(predictor.eval(), frames=4)
    with torch.no_grad():
        found = peer.predict(given["features"], given["action"], given["state"])
    torch.testing.assert_close(found, torch.from_numpy(stored()["wide/forward"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("broken", ["mask", "turned", "moved"])
def test_a_peer_that_computes_something_else_is_noticed(
    world_model: ModuleType, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    bench = world_model.Bench(world_model.Options(size="tiny"))
    actions = world_model.cube((3, 3, 3), "cpu")
    with torch.no_grad():
        ours = bench.landscape("ours", actions, 2)
        world_model.require_same(ours, bench.landscape("peer", actions, 2))
        if broken == "mask":
            bench.peer.mask = torch.ones_like(bench.peer.mask)
        else:
            way = importlib.import_module("peers.notebook_way")
            monkeypatch.setattr(way, broken, lambda x, *_: x)
        peer = bench.landscape("peer", actions, 2)
    with pytest.raises(ValueError, match="different things"):
        world_model.require_same(ours, peer)


def test_world_model(world_model: ModuleType, capsys: pytest.CaptureFixture) -> None:
    options = world_model.Options(
        cases=("landscape", "cem", "memory", "gpu"),
        size="tiny",
        steps=((2, 2, 2),),
        samples=4,
        candidates=(2,),
        repeats=1,
    )
    world_model.main(options)
    memory, *compared, taken = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cases = [(line["case"], line["candidates"], line["horizon"]) for line in compared]
    assert min(memory["peak_mb"]["2"][name] for name in ("ours", "peer")) > 0
    assert cases == [(c, n, h) for c, n in (("landscape", 8), ("cem", 4)) for h in (1, 2)]
    for line in compared:
        assert min(line["ours"], line["peer_candidates_per_second"], line["ratio"]) > 0
        assert line["apart"] < 0.05 * line["spread"]
    assert taken["plan_seconds"] > taken["landscape_seconds"] > 0
    assert 0 < taken["share_of_matmul"] < 1


def test_reliability() -> None:
    small = ("--recipe", "two_stream:debug", "--batch-size", "8", "--steps", "20", "--rounds", "1")
    found = run("reliability.py", *small)
    assert found["step_seconds"] > 0
    assert found["checkpoint_megabytes"] > 1
    assert 0 < found["share_of_fault_points"] < 0.02
    assert 0 <= found["data_wait"] < 1


def test_a_step_of_each_exchange_of_eyes(timing: ModuleType) -> None:
    vla_step = importlib.import_module("vla_step")
    options = vla_step.Options(size="debug", four_bit=True, batch=1, steps=1)
    found = {mode: vla_step.timed(mode, options) for mode in ("keep", "add")}
    assert found["keep"]["million"] < found["add"]["million"]
    assert min(value for row in found.values() for value in row.values()) > 0
    with torch.device("meta"):
        policy = vla_step.sibling().build()
    sizes = {
        part: sum(p.numel() for module in modules for p in module.parameters())
        for part, modules in policy.parts().items()
    }
    # Qwen2.5-0.5B has 494,032,768; timm's towers 304.37 million, less 1113 places of 518 pixels,
    # and 427.68 million; the projector is 2176 - 8704 - 896 - 896
    assert sizes["language"] == 494_032_768
    assert sizes["towers"] / 1e6 == pytest.approx(304.37 - 1.14 + 427.68, abs=0.02)
    assert sizes["projector"] == 2177 * 8704 + 8705 * 896 + 897 * 896
