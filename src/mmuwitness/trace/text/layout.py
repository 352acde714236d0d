"""How payloads are laid out: from the templates of tracepoints.py, or learned from one of them.

A layout is what stands literally and what varies, in order. It becomes a few operations for
`match.match`. A learned one covers the whole payload or is not used: kprobe and kretprobe
places, arguments of system calls, `name=value`, `name: value` and `name value`. What fits no
layout is kept as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np

from mmuwitness.trace.text import columns as op
from mmuwitness.trace.text.columns import ARROW_CALL, ARROW_RETURN, CALL
from mmuwitness.trace.text.loops import Bytes, Words
from mmuwitness.trace.tracepoints import TRACEPOINT

NUMBERS_MAX = 60  # of a layout: unreadable ones are bits of a word
OPERATIONS = {
    "hex": op.HEX,
    "long": op.HEX,  # printed in hex, but signed
    "dec": op.SIGNED,
    "udec": op.UNSIGNED,
    "word": op.WORD,
    "address": op.WORD,  # of a probe, where its symbol is not printed
    "text": op.TEXT,
    "symbol": op.TEXT,
    "function": op.SYMBOL,
    "module": op.MODULE,
}
NUMBERS = {"hex", "long", "dec", "udec"}
TEMPLATE_FIELD = re.compile(r"\{(\w*):(\w+)\}")
FREE_TEXT = {"tracing_mark_write", "console", "bputs"}
"""Events whose payload people write: nothing in it is a field, and it may have several lines."""


class Field(NamedTuple):
    name: str  # empty: printed, and not kept
    kind: str


Piece = str | Field


@dataclass(frozen=True, eq=False)
class Layout:
    operations: Words
    literals: Bytes
    fields: tuple[Field, ...]  # those that are kept, in the order of printing
    numbers: int  # how many of them are numbers; the others are words

    def places(self) -> Iterator[tuple[Field, int]]:
        """Each field with its position among the numbers, or among the words."""
        numbers, words = count(), count()
        for each in self.fields:
            yield each, next(numbers if each.kind in NUMBERS else words)


def make_layout(pieces: Sequence[Piece]) -> Layout:
    """Compile a layout."""
    literals = bytearray()
    operations: list[int] = []
    fields: list[Field] = []
    for position, piece in enumerate(pieces):
        if isinstance(piece, str):
            text = piece.encode()
            operations += (op.LITERAL, len(literals), len(text), 0)
            literals += text
            continue
        column = op.NO_COLUMN
        if piece.name:
            column = sum((each.kind in NUMBERS) == (piece.kind in NUMBERS) for each in fields)
            fields.append(piece)
        rest = pieces[position + 1 :]
        until = rest[0].encode() if rest and isinstance(rest[0], str) else b""
        # The literal that follows is stored twice: as the end of this, and for itself.
        operations += (OPERATIONS[piece.kind], column, len(literals), len(until))
        literals += until
    return Layout(
        np.array(operations, np.int64),
        np.frombuffer(bytes(literals) + bytes(op.PADDING), np.uint8),
        tuple(fields),
        sum(each.kind in NUMBERS for each in fields),
    )


def template_pieces(template: str) -> list[Piece]:
    """`gfn {gfn:hex} level {level:udec}` as pieces."""
    pieces: list[Piece] = []
    at = 0
    for match in TEMPLATE_FIELD.finditer(template):
        if match.start() > at:
            pieces.append(template[at : match.start()])
        pieces.append(Field(match[1], match[2]))
        at = match.end()
    return [*pieces, template[at:]] if at < len(template) else pieces


@cache
def known_layouts(event: str) -> tuple[Layout, ...]:
    """From the templates of this tracepoint, the first that fits counts."""
    row = TRACEPOINT.get(event)
    return tuple(make_layout(template_pieces(each)) for each in row.prints) if row else ()


@cache
def known_kinds(event: str) -> Mapping[str, str]:
    """What its templates say about its fields: raw reports print numbers as they do."""
    row = TRACEPOINT.get(event)
    pieces = [piece for each in row.prints for piece in template_pieces(each)] if row else []
    return {p.name: p.kind for p in pieces if isinstance(p, Field) and p.kind in NUMBERS}


HEX_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
BARE_HEX = re.compile(r"[0-9a-fA-F]{1,16}")
DECIMAL = re.compile(r"-?[0-9]{1,20}")
KEY = re.compile(r"(?:(?<=^)|(?<=[\s,(]))([A-Za-z_][\w.\[\]]*)=")
NAMED_VALUE = re.compile(r"([A-Za-z_]\w*): (\S+?)(, |$)")
CALL_ARGUMENT = re.compile(r"(?:[\w *]+ \*?)?(\w+): ((?:0x)?[0-9a-f]{1,16})(, |$)")
SPACED_VALUE = re.compile(r"([A-Za-z_]\w*) (0x[0-9a-fA-F]{1,16})(, | |$)")
ENTRY = re.compile(r"\([A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?\)")
RETURN = re.compile(r"\([^()]* <- [A-Za-z_][\w.]*(?: \[\w+\])?\)")
ADDRESS = re.compile(r"\((?:0x)?[0-9a-f]{8,16}\)")
ADDRESSES = re.compile(r"\((?:0x)?[0-9a-f]{8,16} <- (?:0x)?[0-9a-f]{8,16}\)")
RAW_PLACES = {"__probe_ip": "function", "__probe_func": "function", "__probe_ret_ip": "caller"}
RESERVED = {"row", "text"}


def learn_layout(event: str, style: int, payload: str) -> Layout | None:
    """The layout of this payload; None if only its text can be kept."""
    pieces = learn_pieces(event, style, payload)
    names = [piece.name for piece in pieces or () if isinstance(piece, Field) and piece.name]
    if not pieces or len(names) > NUMBERS_MAX:
        return None
    taken: set[str] = set(RESERVED)
    unique: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Field) and piece.name:
            name = piece.name
            while name in taken:
                name += "_"
            taken.add(name)
            unique.append(Field(name, piece.kind))
        else:
            unique.append(piece)
    return make_layout(unique)


def learn_pieces(event: str, style: int, payload: str) -> list[Piece] | None:
    if style == ARROW_CALL:
        arrow = " <-- " if " <-- " in payload else " <-"
        return [Field("function", "function"), Field("", "module"), arrow, Field("caller", "text")]
    if event.startswith("sys_exit_"):
        if style == ARROW_RETURN:
            return ["-> ", Field("ret", "long")]
        if HEX_NUMBER.fullmatch(payload):
            return [Field("ret", "long")]
    if style == CALL:
        if payload == "()":
            return ["()"]
        inner = learn_run(CALL_ARGUMENT, payload[1:-1], ": ", {}, "hex")
        return ["(", *inner, ")"] if inner and payload.endswith(")") else None
    if event in FREE_TEXT:
        return None
    place, at = learn_place(payload)
    rest = payload[at:].rstrip(" \t")
    if not rest:
        return place or None
    kinds = known_kinds(event)
    named = {"ret": "long"} if event.startswith("sys_exit_") else kinds
    fields = (
        learn_pairs(rest, named)
        or learn_run(NAMED_VALUE, rest, ": ", kinds, None)
        or learn_run(SPACED_VALUE, rest, " ", kinds, None)
    )
    return [*place, *fields] if fields else None


def learn_place(payload: str) -> tuple[list[Piece], int]:
    """Where a probe fired, and where its arguments begin."""
    if match := ENTRY.match(payload):
        function, offset = Field("function", "function"), Field("offset", "hex")
        size, module = Field("", "hex"), Field("", "module")
        return ["(", function, "+", offset, "/", size, module, ")"], match.end()
    # Formats print a kretprobe's function first (trace-cmd, perf), the kernel itself last.
    if match := ADDRESSES.match(payload):
        function, caller = Field("function", "address"), Field("caller", "address")
        return ["(", function, " <- ", caller, ")"], match.end()
    if match := ADDRESS.match(payload):
        return ["(", Field("function", "address"), ")"], match.end()
    if match := RETURN.match(payload):
        function, module = Field("function", "function"), Field("", "module")
        return ["(", Field("caller", "text"), " <- ", function, module, ")"], match.end()
    return [], 0


def kind_of(value: str, name: str, kinds: Mapping[str, str]) -> str:
    """What a value is. Digits alone are decimal, as probes print them, unless it is known that
    this tracepoint prints them in hex."""
    if kinds.get(name) in {"hex", "long"} and BARE_HEX.fullmatch(value):
        return kinds[name]
    if HEX_NUMBER.fullmatch(value) or value == "(fault)":
        return kinds[name] if kinds.get(name) == "long" else "hex"
    if DECIMAL.fullmatch(value) and -(1 << 63) <= int(value) < 1 << 64:
        return "dec" if int(value) < 1 << 63 else "udec"
    return "text" if any(map(str.isspace, value)) or not value else "word"


def learn_pairs(text: str, kinds: Mapping[str, str]) -> list[Piece] | None:
    """`name=value name=value, name=value`; a value may hold blanks."""
    keys = list(KEY.finditer(text))
    if not keys or re.search(r"\d", text[: keys[0].start()]):  # a number is not literal
        return None
    pieces: list[Piece] = []
    literal = text[: keys[0].start()]
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        stop = after.start() if after else len(text)
        value = text[key.end() : stop]
        # `prev_state=S ==> next_comm=`, `pte=0x1, order=0`: what only separates is literal.
        if after and (separator := re.search(r"(?:,?\s+[^\w\s]*\s*|,)$", value)):
            value = value[: separator.start()]
        literal += key[0]
        if key[1] in RAW_PLACES:
            pieces += (literal, Field(RAW_PLACES[key[1]], "address"))
        else:
            pieces += (literal, Field(key[1], kind_of(value, key[1], kinds)))
        literal = text[key.end() + len(value) : stop]
    return [*pieces, literal] if literal else pieces


def learn_run(
    pattern: re.Pattern[str], text: str, between: str, kinds: Mapping[str, str], kind: str | None
) -> list[Piece] | None:
    """A text that is nothing but matches of `pattern`: name, value, separator."""
    pieces: list[Piece] = []
    at, literal = 0, ""
    while at < len(text):
        match = pattern.match(text, at)
        if not match:
            return None
        literal += text[at : match.start(2)]
        pieces += (literal, Field(match[1], kind or kind_of(match[2], match[1], kinds)))
        literal = match[3]
        at = match.end()
    return pieces if pieces and not literal else None
