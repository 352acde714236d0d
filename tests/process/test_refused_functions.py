"""What the process language refuses, where it takes more than the body of a process to show it:
arguments, calls of functions, results, claims."""

from __future__ import annotations

import pytest

from mmuwitness.process.errors import ProcessError
from mmuwitness.process.program import fold
from tests.process.test_language import assert_points_to, marked, refused
from tests.process.worlds import SmallHost, load

FUNCTIONS = [
    refused("*args", "def p0(host, *more):\n^\n    pass", "*args and **kwargs cannot be used"),
    refused("**kwargs", "def p0(host, **more):\n^\n    pass", "*args and **kwargs cannot be used"),
    refused("only by name", "def p0(host, *, a=1):\n^\n    pass", "*args and **kwargs cannot"),
    refused(
        "positional only", "def p0(host, /):\n^\n    pass", "*args and **kwargs cannot be used"
    ),
    refused(
        "recursion",
        "def again(host):\n^\n    again(host)\n\ndef p0(host):\n    again(host)",
        "calls are nested too deep: recursion cannot be used",
    ),
    refused(
        "recursion of two",
        "def even(host):\n^\n    odd(host)\n\ndef odd(host):\n    even(host)\n\n"
        "def p0(host):\n    even(host)",
        "calls are nested too deep: recursion cannot be used",
    ),
    refused(
        "an argument that cannot be kept",
        "def f(host, a):\n    a = host.box.n\n\ndef p0(host):\n    f(host, host.box.lk)\n    ^",
        "this value cannot be kept in a variable",
    ),
    refused(
        "a column after text that is not ASCII",
        'def p0(host):\n    x = ("é", lambda: 1)\n              ^',
        "a lambda cannot be used",
    ),
    refused(
        "a record over iterations",
        "def p0(host):\n    for i in (0, 1):\n        rec = Rec()\n        if i == 0:\n"
        "            first = rec\n            ^\n        host.box.n = first.a",
        "this value cannot be kept in a variable",
    ),
    refused(
        "adding up over iterations",
        "def p0(host):\n    x = 0\n    for i in (0, 1):\n        x = x + i\n        ^\n",
        "x grows without bound in a loop of p0",
        "give it a range",
    ),
    refused(
        "a lock out of a function",
        "def the_lock(host):\n    return host.items[host.box.flag].lk\n\n"
        "def p0(host):\n    lock(the_lock(host))\n         ^\n\n"
        "def p1(host):\n    host.box.flag = True",
        "a field of a handle cannot be returned",
        "return the object",
    ),
    refused(
        "a primitive of a module",
        "from mmuwitness.model import primitives as kernel\n\ndef p0(host):\n"
        "    with kernel.spin_lock(host.box.lk):\n         ^\n        pass",
        "spin_lock() is called by the name that it is imported under",
        "from mmuwitness.model.primitives import spin_lock",
    ),
    refused(
        "a claim that loops",
        "def claim0(host):\n    while host.box.n < 3:\n    ^\n        pass\n    return True",
        "loop cannot stand in a claim",
        "a claim reads state and does nothing else",
    ),
    refused(
        "a claim without a result",
        "def claim0(host):\n^\n    x = host.box.n",
        "a claim returns whether it holds",
    ),
    refused(
        "a claim that takes a lock",
        "def claim0(host):\n    with spin_lock(host.box.lk):\n         ^\n        return True",
        "acquire cannot stand in a claim",
    ),
    refused(
        "a claim that writes",
        "def claim0(host):\n    host.box.n = 1\n    ^\n    return True",
        "store cannot stand in a claim",
    ),
    refused(
        "a claim that chooses",
        "def claim0(host):\n    return choose(2) == 0\n           ^",
        "choose cannot stand in a claim",
    ),
]


@pytest.mark.parametrize(("code", "message", "hint"), FUNCTIONS)
def test_function_refused(code: str, message: str, hint: str, tmp_path) -> None:
    source = marked("\n" + code + "\n")
    with pytest.raises(ProcessError) as caught:
        fold(SmallHost(load(tmp_path, source.text)))
    assert_points_to(caught.value, source, message, hint)
    above = source.text.split("\n")[: source.line]
    function = next(line for line in reversed(above) if line.startswith("def "))
    assert caught.value.where is not None
    assert function.startswith(f"def {caught.value.where.function}(")


def test_a_process_that_cannot_be_found() -> None:
    scope: dict[str, object] = {"__name__": "nowhere"}
    exec("def p0(host):\n    pass\n", scope)
    function = scope["p0"]
    module = type("Module", (), {"p0": function})
    with pytest.raises(ProcessError, match=r"the source of p0\(\) cannot be found"):
        fold(SmallHost(module))


def test_a_problem_in_a_called_function_names_that_function(tmp_path) -> None:
    source = marked(
        "\ndef inner(host):\n    host.box.n = 9\n    ^\n\ndef p0(host):\n    inner(host)\n"
    )
    with pytest.raises(ProcessError) as caught:
        fold(SmallHost(load(tmp_path, source.text)))
    assert_points_to(caught.value, source, "in inner(): Box.n: 9 is outside 0..3")
