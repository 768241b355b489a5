"""The stack machine that a pickle is a program for, without the opcodes that make objects.

Facts: https://github.com/python/cpython/blob/main/Lib/pickletools.py. What is hostile costs at
most as much memory as the file is large (times a small number), and no more time.
"""

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

INT, UINT, SHORT, ULONG, DOUBLE = map(struct.Struct, ("<i", "<I", "<H", "<Q", ">d"))
VIEWED = 1024  # bytes from which what is stored is a view of the file; smaller ones are copied
INTEGER = re.compile(rb"[+-]?\d{1,4000}")
TEXT = re.compile(rb"(['\"])((?:[^\\]|\\x[0-9a-fA-F]{2}|\\[\\'\"nrt])*)\1")
ESCAPE = re.compile(rb"\\(?:x(..)|(.))", re.DOTALL)
ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
REFUSED = {  # opcodes that make objects, or ask for what is not in the file
    b"i": "INST", b"o": "OBJ", b"P": "PERSID", b"Q": "BINPERSID", b"\x81": "NEWOBJ",
    b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"\x92": "NEWOBJ_EX",
    b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip


class Refused(Exception):  # noqa: N818
    """The name of what a pickle asks for."""


class Global:
    """A name that may be loaded; only what it makes leaves the machine."""

    def __init__(self, make: Callable[..., Any] | None = None) -> None:
        self.make = make


class Unbuilt:
    """An array or type between its making and its state, and where the memo holds it.

    Nothing may refer to one besides the top of the stack and the memo, so that both can be
    replaced by what is built. Arrays that contain themselves are the only ones that would.
    """

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build
        self.memo: list[int] = []


class _Loose(tuple):
    """A tuple that holds, at any depth, what must not leave the machine as it is."""


LOOSE = {memoryview, _Loose, Global, Unbuilt}


class Machine:
    """The stack, the memo and the position of one pickle."""

    def __init__(self, data: memoryview, names: Mapping[tuple[str, str], Global]) -> None:
        self.data, self.names, self.at = data, names, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.unbuilt = 0

    def run(self) -> Any:
        """Run to the end; return what is left on the stack.

        Raises:
            Refused: the pickle asks for what is not allowed.
            Exception: of many kinds, where it is damaged.
        """
        data, stop = self.data, ord(".")
        while (code := data[self.at]) != stop:
            self.at += 1
            ACTS[code](self)
        self.at += 1
        if len(self.stack) != 1 or self.below or self.unbuilt or self.at != len(self.data):
            raise ValueError("it does not end with its end")
        return _settled(self.stack[0])

    def refuse(self) -> NoReturn:
        """Say which opcode is not run, and with which name."""
        code = bytes(self.data[self.at - 1 : self.at])
        if code not in REFUSED:
            raise ValueError(f"{code!r} is no opcode")
        names = f" {self.text()} {self.text()}" if code == b"i" else ""
        raise Refused(f"the opcode {REFUSED[code]}{names:.80}")

    def push(self, value: Any) -> None:
        """Push a value. The stack is looked up after the value is made, which may change it."""
        self.stack.append(value)

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        self.at += count
        if not 0 <= count <= self.at <= len(self.data):
            raise ValueError(f"it ends {self.at - len(self.data)} bytes too early")
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """Return the next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self, kind: struct.Struct) -> Any:
        """Return the next number."""
        self.at += kind.size
        return kind.unpack_from(self.data, self.at - kind.size)[0]

    def line(self) -> bytes:
        """Return the next line."""
        size = 64
        while True:
            found = bytes(self.data[self.at : self.at + size])
            end = found.find(b"\n")
            if end >= 0:
                return bytes(self.take(end + 1)[:-1])
            if len(found) < size:
                raise ValueError("a line has no end")
            size *= 4

    def text(self) -> str:
        """Return the next line as text."""
        return self.line().decode()

    def group(self) -> list[Any]:
        """Pop what was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, key: int) -> None:
        """Remember the top of the stack."""
        value = self.stack[-1]
        if isinstance(value, Unbuilt):
            value.memo.append(key)
        self.memo[key] = value

    def get(self, key: int) -> None:
        """Push what was remembered."""
        if isinstance(self.memo[key], Unbuilt):
            raise ValueError("an array contains itself")
        self.push(self.memo[key])

    def load(self, module: str, name: str) -> None:
        """Push what a name stands for."""
        if (module, name) not in self.names:
            raise Refused(f"the global {f'{module}.{name}'!r:.120}")
        self.push(self.names[module, name])

    def stack_global(self) -> None:
        """Replace a name on the stack by what it stands for."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is no text")
        self.load(module, name)

    def reduce(self) -> None:
        """Call a name with arguments."""
        arguments, call = self.stack.pop(), self.stack.pop()
        if not isinstance(call, Global) or call.make is None or not isinstance(arguments, tuple):
            raise Refused("a call of what is no function")
        made = call.make(*arguments)
        self.unbuilt += isinstance(made, Unbuilt)
        self.push(made)

    def build(self) -> None:
        """Replace what is unbuilt by what its state makes of it."""
        state, unbuilt = self.stack.pop(), self.stack.pop()
        if not isinstance(unbuilt, Unbuilt) or not isinstance(state, tuple):
            raise Refused("the opcode BUILD on what is no array")
        value = unbuilt.build(state)
        self.stack.append(value)
        self.memo |= dict.fromkeys(unbuilt.memo, value)
        self.unbuilt -= 1

    def duplicate(self) -> None:
        """Push the top of the stack again."""
        if isinstance(self.stack[-1], Unbuilt):
            raise ValueError("an array contains itself")
        self.push(self.stack[-1])

    def append(self, items: list[Any]) -> None:
        """Extend the list at the top."""
        self.top(list).extend(map(_settled, items))

    def mark(self) -> None:
        """Begin a group."""
        self.below.append(self.stack)
        self.stack = []

    def add(self, items: list[Any]) -> None:
        """Extend the set at the top."""
        self.top(set).update(keys(items))

    def update(self, items: list[Any]) -> None:
        """Extend the dict at the top."""
        self.top(dict, OrderedDict).update(mapping(items))

    def top(self, *kinds: type) -> Any:
        """Return the top of the stack, which must be of these kinds and no others."""
        if type(self.stack[-1]) not in kinds:
            raise ValueError(f"a {type(self.stack[-1]).__name__} is no {kinds[0].__name__}")
        return self.stack[-1]


def _settled(value: Any) -> Any:
    """Return a value that may be kept: bytes are copied (only arrays are views), names are not."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (Global, Unbuilt)):
        raise Refused("a name, or an array that contains itself, as a value")
    return tuple(map(_settled, value)) if isinstance(value, _Loose) else value


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    return tuple(items) if LOOSE.isdisjoint(map(type, items)) else _Loose(items)


def _key(value: Any) -> Any:
    """Return a key of a dict or member of a set: hashing a deep tuple would overflow the stack."""
    scalar = isinstance(value, (str, bytes, int, float, complex, np.generic, type(None)))
    pair = type(value) is tuple and all(isinstance(v, (str, bytes, int, float)) for v in value)
    if not scalar and not pair:
        raise ValueError(f"a {type(value).__name__} is no key")
    return value


def keys(items: Iterable[Any]) -> list[Any]:
    """Check keys of a dict or members of a set."""
    return list(map(_key, items))


def mapping(items: list[Any]) -> dict[Any, Any]:
    """Make a dict of keys and values in turn."""
    if len(items) % 2:
        raise ValueError("a key has no value")
    return dict(zip(keys(items[::2]), map(_settled, items[1::2]), strict=True))


def _integer(line: bytes) -> int:
    if line in (b"00", b"01"):
        return line == b"01"
    return _long(line)


def _long(line: bytes) -> int:
    if not INTEGER.fullmatch(line.removesuffix(b"L")):
        raise ValueError(f"{line!r:.20} is no integer")
    return int(line.removesuffix(b"L"))


def _big(data: memoryview) -> int:
    return int.from_bytes(data, "little", signed=True)


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _string(line: bytes) -> str:
    """Decode a string of Python 2, which may hold any bytes: one character each."""
    found = TEXT.fullmatch(line)
    if not found:
        raise ValueError(f"{line!r:.20} is no text")

    def meant(escape: re.Match[bytes]) -> bytes:
        code, letter = escape.groups()
        return bytes.fromhex(code.decode()) if code else ESCAPES.get(letter, letter)

    return ESCAPE.sub(meant, found[2]).decode("latin-1")


def _bytes(view: memoryview) -> bytes | memoryview:
    return view if len(view) >= VIEWED else bytes(view)


def _protocol(number: int) -> None:
    if number > 5:
        raise ValueError(f"its protocol is {number}, readable are 0 to 5")


OPCODES: dict[bytes, Callable[[Machine], Any]] = {
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"I": lambda m: m.stack.append(_integer(m.line())),
    b"L": lambda m: m.stack.append(_long(m.line())),
    b"J": lambda m: m.stack.append(m.number(INT)),
    b"K": lambda m: m.stack.append(m.byte()),
    b"M": lambda m: m.stack.append(m.number(SHORT)),
    b"\x8a": lambda m: m.stack.append(_big(m.take(m.byte()))),
    b"\x8b": lambda m: m.stack.append(_big(m.take(m.number(INT)))),
    b"F": lambda m: m.stack.append(float(m.line())),
    b"G": lambda m: m.stack.append(m.number(DOUBLE)),
    b"S": lambda m: m.stack.append(_string(m.line())),
    b"T": lambda m: m.stack.append(str(m.take(m.number(INT)), "latin-1")),
    b"U": lambda m: m.stack.append(str(m.take(m.byte()), "latin-1")),
    b"V": lambda m: m.stack.append(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.stack.append(_text(m.take(m.number(UINT)))),
    b"\x8c": lambda m: m.stack.append(_text(m.take(m.byte()))),
    b"\x8d": lambda m: m.stack.append(_text(m.take(m.number(ULONG)))),
    b"B": lambda m: m.stack.append(_bytes(m.take(m.number(UINT)))),
    b"C": lambda m: m.stack.append(_bytes(m.take(m.byte()))),
    b"\x8e": lambda m: m.stack.append(_bytes(m.take(m.number(ULONG)))),
    b"\x96": lambda m: m.stack.append(bytearray(m.take(m.number(ULONG)))),
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b")": lambda m: m.stack.append(()),
    b"\x8f": lambda m: m.stack.append(set()),
    b"l": lambda m: m.push(list(map(_settled, m.group()))),
    b"d": lambda m: m.push(mapping(m.group())),
    b"t": lambda m: m.push(_tuple(m.group())),
    b"\x91": lambda m: m.push(frozenset(keys(m.group()))),
    b"\x85": lambda m: m.stack.append(_tuple([m.stack.pop()])),
    b"\x86": lambda m: m.stack.append(_tuple([m.stack.pop(), m.stack.pop()][::-1])),
    b"\x87": lambda m: m.stack.append(_tuple([m.stack.pop(), m.stack.pop(), m.stack.pop()][::-1])),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.group()),
    b"s": lambda m: m.update([m.stack.pop(), m.stack.pop()][::-1]),
    b"u": lambda m: m.update(m.group()),
    b"\x90": lambda m: m.add(m.group()),
    b"(": Machine.mark,
    b"0": lambda m: m.stack.pop() if m.stack else m.group(),
    b"1": Machine.group,
    b"2": Machine.duplicate,
    b"p": lambda m: m.put(_long(m.line())),
    b"q": lambda m: m.put(m.byte()),
    b"r": lambda m: m.put(m.number(UINT)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(_long(m.line())),
    b"h": lambda m: m.get(m.byte()),
    b"j": lambda m: m.get(m.number(UINT)),
    b"c": lambda m: m.load(m.text(), m.text()),
    b"\x93": Machine.stack_global,
    b"R": Machine.reduce,
    b"b": Machine.build,
    b"\x80": lambda m: _protocol(m.byte()),
    b"\x95": lambda m: m.number(ULONG),  # the length of a frame: of use to streams only
}
ACTS = [OPCODES.get(bytes([code]), Machine.refuse) for code in range(256)]
