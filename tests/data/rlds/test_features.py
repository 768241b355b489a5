"""``features.json`` says what a key holds; what it cannot say is refused by name."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from saccade.data.files.folder import Folder
from saccade.data.rlds.features import Feature, load_features, names_of, unpack
from saccade.errors import DataError
from tests.fixtures.rlds import image, nested, tensor, text


def loaded(tmp_path: Path, tree: object) -> dict[str, Feature]:
    (tmp_path / "features.json").write_text(json.dumps(tree))
    return load_features(Folder(tmp_path), "features.json")


def listed(feature: object) -> dict:
    return {"pythonClassName": "Sequence", "sequence": {"feature": feature, "length": "-1"}}


def test_every_kind_by_its_flat_key(tmp_path: Path) -> None:
    tree = nested(
        {
            "episode_metadata/path": text(),
            "episode_metadata/counts": listed(tensor("int32")),
            "steps/is_first": tensor("bool"),
            "steps/observation/image": image(4, 6),
            "steps/observation/depth": image(4, 6, 1, "png"),
            "steps/observation/pose": tensor("float64", 2, 3),
            "steps/observation/small": tensor("float64", 2, encoding="zlib"),
            "steps/observation/kind": {"classLabel": {"numClasses": "3"}},
            "steps/observation/words": tensor("string"),
            "steps/observation/points": listed(tensor("float32", 3)),
            "steps/observation/free": tensor("float32", -1),
            "steps/observation/sound": {"audio": {}},
        }
    )
    found = loaded(tmp_path, tree)
    assert found["episode_metadata/path"] == Feature("text")
    assert found["episode_metadata/counts"] == Feature("number", None, "int32")
    assert found["steps/is_first"] == Feature("number", (), "bool", per_step=True)
    assert found["steps/observation/image"] == Feature("image", (4, 6, 3), "uint8", "jpeg", True)
    assert found["steps/observation/depth"].shape == (4, 6, 1)
    assert found["steps/observation/pose"].size == 6
    assert found["steps/observation/small"] == Feature("packed", (2,), "float64", "zlib", True)
    assert found["steps/observation/kind"] == Feature("number", (), "int64", per_step=True)
    assert found["steps/observation/words"].kind == "text"
    reasons = {name: found[f"steps/observation/{name}"].why for name in ("points", "free", "sound")}
    assert reasons == {
        "points": "lists inside of steps are not read",
        "free": "tensors of changing size are not read",
        "sound": "features like ['audio'] are not read",
    }


def test_numbers_are_named_by_their_place() -> None:
    features = {"a/b": Feature("number", (2,)), "a/c": Feature("number", ())}
    assert names_of(features, ["a/b", "a/c"]) == ("b_0", "b_1", "c")


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ([], "holds no JSON object"),
        (nested({"a": text()}), "describes no episodes"),
        ({"featuresDict": {"features": {"steps": 5}}}, "steps is 5, expected a feature"),
        ({"featuresDict": {"features": []}}, "expected an object"),
        (nested({"steps/a": {"tensor": {"shape": {"dimensions": ["x"]}}}}), "expected numbers"),
        (nested({"steps/a": tensor("float32", 10**6, 10**6)}), "has the shape"),
        (nested({"steps/a": tensor("float32", *[1] * 100)}), "has the shape"),
        (
            nested({"steps/a": {"tensor": {"shape": {"dimensions": [float("inf")]}}}}),
            r"shape \[inf\], expected numbers",
        ),
        (nested({"steps/a": {"image": 3}}), "expected an object"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, tree: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        loaded(tmp_path, tree)


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff\xfe\xff", b'{"a": ' * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "features.json").write_bytes(data)
    with pytest.raises(DataError, match=r"features.json is no JSON"):
        load_features(Folder(tmp_path), "features.json")


def test_a_deep_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a feature"):
        loaded(tmp_path, nested({"steps/" + "/".join("a" * 40): text()}))


@pytest.mark.parametrize("dtype", ["object", "O", "f8,f8", "M8[s]", "bfloat16", "V8"])
def test_numbers_of_types_that_are_none_are_not_unpacked(tmp_path: Path, dtype: str) -> None:
    found = loaded(tmp_path, nested({"steps/a": tensor(dtype, 2, encoding="bytes")}))["steps/a"]
    assert found.kind == "other"
    assert found.why == f"numbers of type {dtype} are not read"


@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
def test_tensors_stored_as_bytes(encoding: str) -> None:
    feature = Feature("packed", (2,), "float64", encoding, True)
    pack = zlib.compress if encoding == "zlib" else bytes
    rows = np.array([[1.5, -2], [1e300, 0]])
    values = [pack(row.tobytes()) for row in rows]
    np.testing.assert_array_equal(unpack(values, feature), rows.ravel())
    assert len(unpack([], feature)) == 0
    with pytest.raises(DataError, match=r"features.json says 16"):
        unpack([pack(bytes(15))], feature)


def test_a_bomb_is_not_unpacked() -> None:
    feature = Feature("packed", (2,), "float64", "zlib", True)
    bomb = zlib.compress(bytes(1 << 26))
    with pytest.raises(DataError, match=r"has 17 bytes, features.json says 16"):
        unpack([bomb], feature)
    with pytest.raises(DataError, match="is not compressed"):
        unpack([b"nothing"], feature)
