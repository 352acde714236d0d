"""The `print fmt` of an event's format: which of its fields the kernel prints by name, and how.

    print fmt: "vcpu %u reason %s", REC->vcpu_id, __print_symbolic(REC->exit_reason, {0x400, "npf"})

gives exit_reason the words that text traces have: `npf`. Of C's expressions that is all that
formats use, but what needs kernel code (union members, functions of a subsystem): that is not
evaluated, and the field stays the number that was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Value = int | str
Evaluate = Callable[[Mapping[str, int]], Value]

_WORD = (1 << 64) - 1
_TOKEN = re.compile(
    r"\s*(?:(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<field>REC->\w+)"
    r"|(?P<number>0[xX][0-9a-fA-F]+|\d+)[uUlL]*(?!\w)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark><<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:(){},]))"
)
_CONVERSION = re.compile(r"%(?P<flags>[-+ #0]*)[\d.*]*(?:hh|h|ll|l|L|z|t|j|q)?(?P<kind>[a-zA-Z%])")
_LABEL = re.compile(r"(\w+)(?:=|:? )$")
_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: int(bool(a) or bool(b))),
    "&&": (2, lambda a, b: int(bool(a) and bool(b))),
    "|": (3, lambda a, b: a | b),
    "^": (4, lambda a, b: a ^ b),
    "&": (5, lambda a, b: a & b),
    "==": (6, lambda a, b: int(a == b)),
    "!=": (6, lambda a, b: int(a != b)),
    "<": (7, lambda a, b: int(a < b)),
    ">": (7, lambda a, b: int(a > b)),
    "<=": (7, lambda a, b: int(a <= b)),
    ">=": (7, lambda a, b: int(a >= b)),
    "<<": (8, lambda a, b: a << min(b & _WORD, 64) & _WORD),
    ">>": (8, lambda a, b: a >> min(b & _WORD, 64)),
    "+": (9, lambda a, b: a + b),
    "-": (9, lambda a, b: a - b),
    "*": (10, lambda a, b: a * b),
    "/": (10, lambda a, b: a // b if b else 0),
    "%": (10, lambda a, b: a % b if b else 0),
}
_DEPTH_MAX = 100


class _UnknownError(Exception):
    """The expression holds something that is not evaluated."""


@dataclass(frozen=True)
class Expression:
    """One that was understood: the fields it reads, in order, and its value by theirs."""

    fields: tuple[str, ...]
    value: Evaluate
    named: str | None  # the field whose value __print_symbolic or __print_flags names
    plain: bool  # nothing but a field, perhaps cast


Group = list[tuple[str, Expression | None]]
"""Kinds of conversion, and the arguments they print."""


@dataclass(frozen=True)
class Printed:
    """A column that is not the field as recorded: a String or, of `%d` and the like, an Int64."""

    column: str
    fields: tuple[str, ...]
    value: Evaluate


def printed_columns(print_format: str, fields: frozenset[str]) -> list[Printed]:
    """The columns whose values text prints otherwise than the ring buffer holds them."""
    try:
        tokens = _tokens(print_format)
        format_text = _strings(tokens)
        arguments = _arguments(tokens)
    except _UnknownError:
        return []
    found = []
    position, literal = 0, ""
    group: Group = []  # printed without anything between
    for match in _CONVERSION.finditer(format_text):
        between = format_text[position : match.start()]
        position = match.end()
        if match["kind"] == "%":
            continue
        if between or not group:
            found += _named(group, literal, fields)
            group, literal = [], between
        group.append((match["kind"], arguments.pop(0) if arguments else None))
    return found + _named(group, literal, fields)


def _named(group: Group, literal: str, fields: frozenset[str]) -> list[Printed]:
    """The column that a group of conversions behind `literal` is, if it is one."""
    expressions = [expression for _, expression in group if expression is not None]
    if not group or len(expressions) < len(group):
        return []
    label = match[1] if (match := _LABEL.search(literal)) else None
    used = tuple(dict.fromkeys(name for each in expressions for name in each.fields))
    if not used or any(name not in fields for name in used):
        return []
    if all(kind == "s" for kind, _ in group):
        named = next((each.named for each in expressions if each.named), None)
        if named is None and len(group) == 1 and not expressions[0].plain:
            # `REC->set ? "set" : "cleared"`: the field alone, or the one that the label names
            named = label if label in fields else used[0] if len(used) == 1 else None
        if named is None:
            return []
        return [
            Printed(named, used, lambda of: "".join(str(each.value(of)) for each in expressions))
        ]
    if len(group) == 1 and label and label not in fields and not expressions[0].plain:
        return [Printed(label, used, expressions[0].value)]
    return []


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        if (match := _TOKEN.match(text, at)) is None:
            tokens.append(("unknown", text[at]))
            at += 1
            continue
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        at = match.end()
    return tokens


def _strings(tokens: list[tuple[str, str]]) -> str:
    """String literals that stand side by side, joined; taken off the tokens."""
    text = ""
    if not tokens or tokens[0][0] != "string":
        raise _UnknownError
    while tokens and tokens[0][0] == "string":
        text += tokens.pop(0)[1][1:-1]
    return text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t")


def _arguments(tokens: list[tuple[str, str]]) -> list[Expression | None]:
    """The expressions behind the commas; None for one that is not evaluated."""
    arguments: list[Expression | None] = []
    while tokens:
        if tokens.pop(0) != ("mark", ","):
            raise _UnknownError
        depth = count = 0
        for _, mark in tokens:
            if mark == "," and depth == 0:
                break
            depth += (mark in {"(", "{"}) - (mark in {")", "}"})
            count += 1
        try:
            arguments.append(_Parser(tokens[:count]).whole())
        except _UnknownError:
            arguments.append(None)
        del tokens[:count]
    return arguments


class _Parser:
    """Recursive descent over the tokens of one argument."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.fields: list[str] = []
        self.named: str | None = None

    def whole(self) -> Expression:
        value = self.choice()
        if self.at < len(self.tokens):
            raise _UnknownError
        plain = len(self.fields) == 1 and all(
            kind in {"field", "name"} or text in {"(", ")", "*"} for kind, text in self.tokens
        )
        return Expression(tuple(dict.fromkeys(self.fields)), value, self.named, plain)

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "")

    def next(self, expected: str | None = None) -> tuple[str, str]:
        kind, text = self.peek()
        if kind == "end" or (expected is not None and text != expected):
            raise _UnknownError
        self.at += 1
        return kind, text

    def choice(self) -> Evaluate:
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise _UnknownError
        condition = self.binary(1)
        if self.peek()[1] != "?":
            self.depth -= 1
            return condition
        self.next("?")
        first = self.choice()
        self.next(":")
        second = self.choice()
        self.depth -= 1
        return lambda of: first(of) if condition(of) else second(of)

    def binary(self, lowest: int) -> Evaluate:
        left = self.unary()
        while (operator := _BINARY.get(self.peek()[1])) and operator[0] >= lowest:
            self.next()
            left = _apply(operator[1], left, self.binary(operator[0] + 1))
        return left

    def unary(self) -> Evaluate:
        kind, text = self.next()
        if text in {"-", "~", "!"}:
            inner = self.unary()
            return {
                "-": lambda of: -_number(inner(of)),
                "~": lambda of: ~_number(inner(of)),
                "!": lambda of: int(not inner(of)),
            }[text]
        if text == "(":
            if self.peek()[0] == "name" and not self.peek()[1].startswith("__print"):
                while self.peek()[0] == "name" or self.peek()[1] == "*":
                    self.next()
                self.next(")")
                return self.unary()
            value = self.choice()
            self.next(")")
            return value
        if kind == "number":
            number = int(text, 16 if text[:2] in {"0x", "0X"} else 10)
            return lambda _: number
        if kind == "field":
            name = text.removeprefix("REC->")
            self.fields.append(name)
            return lambda of: of[name]
        if kind == "string":
            self.at -= 1
            rest = self.tokens[self.at :]
            before = len(rest)
            joined = _strings(rest)
            self.at += before - len(rest)
            return lambda _: joined
        if text in {"__print_symbolic", "__print_flags"}:
            return self.names(text == "__print_flags")
        raise _UnknownError

    def names(self, flags: bool) -> Evaluate:
        """`(value, {0x1, "A"}, ...)`, before the list of flags what stands between them."""
        self.next("(")
        count = len(self.fields)
        value = self.choice()
        if self.named is None and len(self.fields) > count:
            self.named = self.fields[count]
        delimiter = ""
        if flags:
            self.next(",")
            delimiter = str(self.choice()({}))
        table: list[tuple[int, str]] = []
        while self.peek()[1] == ",":
            self.next(",")
            self.next("{")
            number = _number(self.choice()({}))
            self.next(",")
            table.append((number & _WORD, str(self.choice()({}))))
            self.next("}")
        self.next(")")
        if flags:
            return lambda of: _flags(_number(value(of)) & _WORD, delimiter, table)
        words = dict(reversed(table))  # the first of equal ones counts

        def word(of: Mapping[str, int]) -> str:
            number = _number(value(of)) & _WORD
            return words.get(number, f"{number:#x}")

        return word


def _apply(operator: Callable[[int, int], int], left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda of: operator(_number(left(of)), _number(right(of)))


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _flags(value: int, delimiter: str, table: list[tuple[int, str]]) -> str:
    """As the kernel's trace_print_flags_seq()."""
    words = []
    for mask, name in table:
        if mask and value & mask == mask:
            words.append(name)
            value &= ~mask
    if value:
        words.append(f"{value:#x}")
    return delimiter.join(words)
