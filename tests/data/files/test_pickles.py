"""What pickles of arrays hold, from every writer there was, and that nothing in them is run."""

import copyreg
import os
import pickle
import random
import struct
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.files.folder import Folder
from saccade.data.files.pickles import load_npy, load_pickle, loads
from saccade.errors import DataError

PROTOCOLS = range(6)
TRAJECTORY = {
    "full_state": np.arange(14, dtype=np.float64).reshape(2, 7),
    "time_stamp": [1.5, 2.5],
    "env_done": [False, True, None],
    "image": np.arange(3000, dtype=np.uint8).reshape(20, 50, 3),
    "turned": np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "names": np.array(["x", "gripper"]),
    "bytes": np.array([b"ab", b"c"]),
    "scalar": np.float32(0.1),
    "truth": np.bool_(True),
    "empty": np.zeros((0, 7)),
    "point": np.array(3.5),
    "objects": np.array([{"a": np.ones(2)}, None, "text"], object),
}
PLAIN: list[Any] = [
    None, True, 2**70, -3, 255, 65536, 1.5, "Ünïcode\n\\ 'text\"'", b"\x00\xff", b"", bytes(2000),
    bytearray(b"ab"), (), (1,), (1, 2), (1, 2, 3), (1, (2, bytes(5000)), [3]), [1, [2, []]],
    {"a": {1: b"x", (1, "b"): None}}, {1, "b"}, frozenset({2.5}), OrderedDict(a=1, b=[2]), 1 + 2j,
]  # fmt: skip

# What Python 2.7 with NumPy 1 wrote for {"state": array([[1.5, -2]]), "n": 3L, "s": "\xe9'"}.
PYTHON_2 = {
    2: b"\x80\x02}q\x01(U\x05stateq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
    b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02f8K\x00K\x01\x87R"
    b"q\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
    + struct.pack("<2d", 1.5, -2)
    + b"tbU\x01nL3L\nU\x01sU\x02\xe9'u.",
    0: b"(dp1\nS'state'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\nt"
    b"S'b'\ntRp5\n(I1\n(I1\nI2\ntcnumpy\ndtype\np6\n(S'f8'\nI0\nI1\ntRp7\n(I3\nS'<'\nNNNI-1\nI-1\n"
    b"I0\ntbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf8?\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xc0'\n"
    b"tbsS'n'\nL3L\nsS's'\nS\"\\xe9'\"\ns.",
}


def assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert repr(found.dtype) == repr(expected.dtype)
        assert found.shape == expected.shape
        pairs = zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)
        [assert_equal(*pair) for pair in pairs]
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        [assert_equal(found[key], expected[key]) for key in expected]
    elif isinstance(expected, (list, tuple)):
        [assert_equal(*pair) for pair in zip(found, expected, strict=True)]
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_pickle_writes_comes_back(protocol: int) -> None:
    assert_equal(loads(pickle.dumps(TRAJECTORY, protocol), "here"), TRAJECTORY)
    for value in PLAIN:
        assert_equal(loads(pickle.dumps(value, protocol), "here"), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_1_named_its_modules_otherwise(protocol: int) -> None:
    data = pickle.dumps(TRAJECTORY["full_state"], protocol)
    if protocol < 4:
        data = data.replace(b"numpy._core.", b"numpy.core.")
    else:  # texts have a length
        data = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        data = data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    assert b"numpy.core." in data
    assert_equal(loads(data, "here"), TRAJECTORY["full_state"])


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_python_2(protocol: int) -> None:
    found = loads(PYTHON_2[protocol], "here")
    assert_equal(found, {"state": np.array([[1.5, -2]]), "n": 3, "s": "é'"})
    assert_equal(found, pickle.loads(PYTHON_2[protocol], encoding="latin1"))


def test_a_shared_value_is_one() -> None:
    row = np.arange(3.0)
    found = loads(pickle.dumps([row, row, {"again": row}], 4), "here")
    assert found[0] is found[1] is found[2]["again"]


def test_large_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"p": picture}, 4))
    found = load_pickle(Folder(tmp_path), "a.pkl")["p"]
    np.testing.assert_array_equal(found, picture)
    assert not found.flags.owndata
    assert not found.flags.writeable


def save(array: np.ndarray, path: Path) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array([{"a": np.ones((2, 2))}, {"a": None}], object),
        np.array([[None, 1], ["b", 2.0]], object),
        np.zeros((0, 3), np.float32),
    ],
)
def test_npy(tmp_path: Path, array: np.ndarray) -> None:
    save(array, tmp_path / "out.npy")
    assert_equal(load_npy(Folder(tmp_path), "out.npy"), array)


def test_broken_npy(tmp_path: Path) -> None:
    path, folder = save(np.arange(12.0), tmp_path / "out.npy"), Folder(tmp_path)
    whole = path.read_bytes()
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"
    for data in (
        whole[:-1],
        whole[:40],
        b"\x93NUMPY\x09\x00" + whole[8:],
        whole.replace(b"(12,)", b"(2**9,)"),
        header.ljust(127) + b"\n" + pickle.dumps(np.array([1, 2], object)),
        header.ljust(127) + b"\n" + pickle.dumps({"a": 1}),
        header.ljust(127) + b"\ncos\nsystem\n(S'x'\ntR.",
        header.replace(b"'|O'", b"[('a','|O')]").ljust(127) + b"\n" + bytes(24),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"out\.npy"):
            load_npy(folder, "out.npy")


# The hostile corpus. {} is a shell command, an expression or a path that leaves a mark.
TARGETS = [
    "os.system", "posix.system", "nt.system", "os.popen", "os.execv", "os.spawnlp", "os.remove",
    "os.putenv", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "pty.spawn",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.getattr", "builtins.setattr",
    "builtins.__import__", "builtins.open", "builtins.print", "builtins.map", "builtins.apply",
    "builtins.type", "builtins.object", "builtins.globals", "builtins.vars", "builtins.list",
    "__builtin__.eval", "__builtin__.file", "__builtin__.execfile", "__builtin__.apply",
    "__main__.marked", "importlib.import_module", "importlib.__import__", "runpy.run_path",
    "runpy._run_code", "code.interact", "code.InteractiveInterpreter", "timeit.timeit",
    "timeit.main", "cProfile.run", "profile.run", "pdb.run", "bdb.Bdb.run", "doctest.debug_script",
    "operator.attrgetter", "operator.methodcaller", "operator.itemgetter", "functools.partial",
    "functools.reduce", "itertools.starmap", "types.FunctionType", "types.CodeType",
    "marshal.loads", "pickle.loads", "_pickle.loads", "pickle._Unpickler", "shelve.open",
    "copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.add_extension",
    "copyreg.__newobj__", "ctypes.CDLL", "ctypes.PyDLL", "_ctypes.dlopen", "socket.socket",
    "urllib.request.urlopen", "webbrowser.open", "shutil.rmtree", "pathlib.Path", "io.open",
    "_io.FileIO", "tempfile.mktemp", "logging.FileHandler", "logging.config.listen", "site.main",
    "sys.exit", "sys.modules", "sys.setrecursionlimit", "signal.raise_signal", "asyncio.run",
    "concurrent.futures.ThreadPoolExecutor", "multiprocessing.Process", "threading.Thread",
    "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.frombuffer", "numpy.f2py.compile",
    "numpy.testing.rundocs", "numpy.testing._private.utils.runstring", "numpy.save",
    "numpy.distutils.exec_command.exec_command", "numpy.core.multiarray.fromfile",
    "numpy.core.multiarray.set_string_function", "numpy._core.multiarray.frombuffer",
    "numpy.core.numeric.load", "numpy._core.numeric.fromfile", "numpy.core.records.fromfile",
    "numpy.ctypeslib.load_library", "numpy.ndarray.tofile", "numpy.dtype.__setstate__",
    "numpy.lib.npyio.load", "numpy.random._pickle.__generator_ctor", "numpy.matrix",
    "numpy.ma.core._mareconstruct", "numpy.vectorize", "numpy.record", "torch.load",
    "torch.storage._load_from_bytes", "torch._utils._rebuild_tensor_v2", "torch.hub.load",
    "torch.serialization.load", "torch.utils.collect_env.run", "pandas.read_pickle",
    "pandas.eval", "joblib.load", "joblib._utils.eval_expr", "dill.loads", "cloudpickle.loads",
    "yaml.unsafe_load", "collections.namedtuple", "collections.ChainMap", "collections.UserDict",
    "collections.defaultdict", "collections.OrderedDict.__reduce__", "_codecs.lookup",
    "_codecs.register", "codecs.open", "codecs.encode", "_codecs.decode", "saccade.cli.main",
    "saccade.data.files.pickles.loads", "PIL.Image.open", "h5py.File", "xmlrpc.client.ServerProxy",
    "idlelib.pyshell.ModifiedInterpreter", "lib2to3.pgen2.grammar.Grammar", "ensurepip._run_pip",
    "venv.create", "distutils.spawn.spawn", "smtplib.SMTP", "fileinput.input", "linecache.getline",
]  # fmt: skip


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def forms(target: str, argument: str) -> Iterator[tuple[str, bytes]]:
    """Yield a call of a name with a text, and ways around a call, by their opcodes."""
    module, name = target.rsplit(".", 1)
    text = b"X" + struct.pack("<I", len(argument)) + argument.encode()
    call = f"c{module}\n{name}\n".encode()
    yield "GLOBAL", call + b"(" + text + b"tR."
    yield "STACK_GLOBAL", b"\x80\x04" + short(module) + short(name) + b"\x93" + text + b"\x85R."
    yield "INST", b"(" + text + f"i{module}\n{name}\n.".encode()
    yield "OBJ", b"(" + call + text + b"o."
    yield "NEWOBJ", b"\x80\x02" + call + text + b"\x85\x81."
    yield "NEWOBJ_EX", b"\x80\x04" + call + text + b"\x85}\x92."
    yield "BUILD", call + b")R" + text + b"b."
    dotted = b"\x80\x04" + short(module.split(".")[0]) + short(target.partition(".")[2])
    yield "dotted", dotted + b"\x93" + text + b"\x85R."


def hostile(marker: Path) -> dict[str, bytes]:
    """Return payloads by name. Each would make the file ``marker`` or disturb the process."""
    command = f"touch {marker}"
    found = {
        f"{target} by {form}": data for target in TARGETS for form, data in forms(target, command)
    }
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    code = b"cnumpy\ndtype\n(X\x02\x00\x00\x00%sK\x00K\x01tR"
    code += b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff"
    own = b"q\x01(K\x01(K\x01t"  # the state of an array that is in the memo
    objects, floats = code % b"O8", code % b"f8"
    objects, floats = (kind + b"J\xff\xff\xff\xffK\x00tb" for kind in (objects, floats))
    state = b"(K\x01(%st" + b"%s\x89%stb."
    eight = b"C\x08\x01\x02\x03\x04\x05\x06\x07\x08"
    built = (state % (b"K\x01", floats, eight))[:-1]
    nothing = code % b"S0" + b"K\x00K\x00K\x00tb"
    remake = b"cnumpy.core.multiarray\n_reconstruct\n("
    build = b"}(X\x0c\x00\x00\x00__setstate__cos\nsystem\nub"
    found |= {
        "persistent id": b"P" + command.encode() + b"\n.",
        "binary persistent id": text + b"Q.",
        "extension 1": b"\x82\xf0" + text + b"\x85R.",
        "extension 2": b"\x83\xf0\x00" + text + b"\x85R.",
        "extension 4": b"\x84\xf0\x00\x00\x00" + text + b"\x85R.",
        "name through the memo": short("os") + b"\x940" + short("system") + b"\x940h\x00h\x01\x93.",
        "name that is no text": b"K\x01K\x02\x93.",
        "name in bytes": b"C\x02osC\x06system\x93" + text + b"\x85R.",
        "name with a line break": b"\x8c\x0anumpy\nload\x8c\x01a\x93.",
        "call of a text": text + b")R.",
        "call of an array's class": b"cnumpy\nndarray\n(K\x05tR.",
        "call of an array": array + built + b")R.",
        "call of a dict": b"}" + text + b"\x85R.",
        "call without a tuple": b"cnumpy\ndtype\n" + text + b"R.",
        "class as a value": b"]cnumpy\nndarray\na.",
        "class alone": b"cnumpy\nndarray\n.",
        "class in a tuple": b"cnumpy\nndarray\n\x85.",
        "function in a dict": b"}X\x01\x00\x00\x00ac_codecs\nencode\ns.",
        "array of another class": remake + b"cnumpy\ndtype\n(K\x00tC\x01btR.",
        "array of a forged class": remake + b"cos\nsystem\n(K\x00tC\x01btR.",
        "state of a list": b"]" + build + b".",
        "state of a dict": b"}" + build + b".",
        "state of an ordered dict": b"ccollections\nOrderedDict\n)R" + build + b".",
        "state of a name": b"cnumpy\nndarray\n" + build + b".",
        "state of an array, a dict": array + build + b".",
        "state of a built array": array + built + b"}b.",
        "objects from bytes": array + state % (b"K\x01", objects, eight),
        "objects from text": array + state % (b"K\x01", objects, b"U\x08AAAAAAAA"),
        "objects from a buffer": b"cnumpy.core.numeric\n_frombuffer\n("
        + eight + objects + b"(K\x01tX\x01\x00\x00\x00CtR.",
        "object scalar from bytes": b"cnumpy.core.multiarray\nscalar\n(" + objects + eight + b"tR.",
        "objects, too few": array + state % (b"K\x09", objects, b"]"),
        "more numbers than bytes": array + state % (b"J\xff\xff\xff\x7f", floats, eight),
        "a shape that overflows": array
        + state % (b"\x8a\x08" + bytes(7) + b"\x40" + b"K\x08", floats, eight),
        "a negative shape": array + state % (b"J\xff\xff\xff\xff", floats, eight),
        "numbers of no size": array + state % (b"J\xff\xff\xff\x7f", nothing, b"C\x00"),
        "a structured type": b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8K\x00K\x01tR.",
        "a type with fields": b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR(K\x03"
        b"X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}K\x08K\x01K\x00tb.",
        "a type by expression": b"cnumpy\ndtype\n(X\x05\x00\x00\x00O8,f8K\x00K\x01tR.",
        "a type by dict": b"cnumpy\ndtype\n(}K\x00K\x01tR.",
        "an array that contains itself": array + own + objects + b"\x89]h\x01atb.",
        "an array that was not built": array + b".",
        "a list of what was not built": b"]" + array + b"a.",
        "an array built twice": array + b"2" + state % (b"K\x01", floats, eight),
        "a codec that imports": b"c_codecs\nencode\n(Va\nVimport_os\ntR.",
        "a codec of another kind": b"c_codecs\nencode\n(Va\nVrot13\ntR.",
        "2 GB of zeros": b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR.",
        "2 GB of zeros to write": b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.",
        "a memo of 4 billion": b"Nr\xff\xff\xff\xff0N.",
        "bytes of 2^60": b"\x8e" + struct.pack("<Q", 1 << 60) + b".",
        "bytes to write of 2^60": b"\x96" + struct.pack("<Q", 1 << 60) + b".",
        "text of 2^63": b"\x8d" + struct.pack("<Q", 1 << 63) + b".",
        "text of -1": b"T\xff\xff\xff\xff.",
        "number of -1 bytes": b"\x8b\xff\xff\xff\xff.",
        "number of 10^6 digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "tuples 30,000 deep as a key": b"}(" + b")" + b"\x85" * 30_000 + b"Nu.",
        "tuples 30,000 deep with a name": b"cnumpy\nndarray\n" + b"\x85" * 30_000 + b".",
        "protocol 255": b"\x80\xff.",
        "a buffer from elsewhere": b"\x80\x05\x97.",
        "an unhashable key": b"}]Ns.",
        "a list in a set": b"\x8f(]\x90.",
        "nothing on the stack": b"R.",
        "no mark": b"t.",
        "no memo": b"h\x00.",
        "what follows the end": b"N.N.",
        "nothing": b"",
    }  # fmt: skip
    return found


def marked(*_: object) -> None:
    pytest.fail("a pickle called a function")


def test_nothing_hostile_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    corpus = hostile(marker)
    assert len(corpus) > 1000
    harmless = {"a memo of 4 billion", "tuples 30,000 deep with a name"}
    accepted, messages = set(), {}
    for name, data in corpus.items():
        try:
            loads(data, "evil.pkl")
            accepted.add(name)
        except DataError as error:
            messages[name] = str(error)
        assert not marker.exists(), f"{name} was run"
    assert accepted <= harmless
    wrong = {n: m for n, m in messages.items() if "evil.pkl" not in m or len(m) > 400}
    assert not wrong


def test_the_corpus_is_hostile(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(hostile(marker)["posix.system by STACK_GLOBAL"])
    assert marker.exists(), "Python's own pickle must run it, or the corpus proves nothing"


def test_a_registered_extension_is_not_looked_up(tmp_path: Path) -> None:
    copyreg.add_extension("posix", "system", 240)
    try:
        data = b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R."
        assert pickle.loads(data) == 0  # and it is in Python's cache from now on
        with pytest.raises(DataError, match="EXT1"):
            loads(data, "evil.pkl")
    finally:
        copyreg.remove_extension("posix", "system", 240)


def test_a_refusal_names_what_is_refused() -> None:
    message = r"^a/obs_dict\.pkl is refused: its pickle asks for the global 'posix\.system'; only"
    with pytest.raises(DataError, match=message):
        loads(pickle.dumps(os.system), "a/obs_dict.pkl")
    with pytest.raises(DataError, match="INST os system"):
        loads(b"(S'true'\nios\nsystem\n.", "a.pkl")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated(protocol: int) -> None:
    data = pickle.dumps(TRAJECTORY, protocol)
    for end in [*range(100), *range(100, len(data), 499), *range(len(data) - 9, len(data))]:
        with pytest.raises(DataError, match=r"x\.pkl"):
            loads(data[:end], "x.pkl")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flipped_bits(protocol: int) -> None:
    """A flip is an error, or another value of the same kinds: never another exception."""
    rng = random.Random(protocol)
    values = {name: TRAJECTORY[name] for name in ("full_state", "turned", "objects", "scalar")}
    data = pickle.dumps([values, {1, "b"}, OrderedDict(a=1, b=b"x")], protocol)
    failed = 0
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            loads(bytes(broken), "x.pkl")
        except DataError:
            failed += 1
    assert failed > 20


def test_noise() -> None:
    """Opcodes in any order end in an error or in plain data."""
    rng = random.Random(0)
    opcodes = (
        b"(.012FIJKLMNRSTUVXabcdeghjlopqrstu})]\x80\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x93\x94"
    )
    pieces = [bytes([code]) for code in opcodes]
    pieces += [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", short("f8"), b"K\x01", b"C\x08AAAAAAAA"]
    pieces += [b"cnumpy.core.multiarray\n_reconstruct\n", b"ccollections\nOrderedDict\n"]
    refused = 0
    for _ in range(2000):
        data = b"".join(rng.choices(pieces, k=rng.randrange(30))) + b"."
        try:
            loads(data, "x.pkl")
        except DataError:
            refused += 1
    assert refused > 1000
