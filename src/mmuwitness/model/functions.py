"""The functions of the model by name: what `explain` explains, and what a variant may override."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from types import FunctionType

from mmuwitness import model
from mmuwitness.model.arch.arch import Arch


@cache
def functions() -> dict[str, FunctionType]:
    """Every function of mm/, lib/, kvm/ and arch/ by its kernel name; `Arm64.install` for a method.

    A name means one function: users name it without its file."""
    found: dict[str, FunctionType] = {}
    for info in pkgutil.walk_packages(model.__path__, "mmuwitness.model."):
        if any(f".{part}." in info.name for part in ("mm", "lib", "kvm", "arch")):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if getattr(value, "__module__", "") != info.name:
                    continue
                if isinstance(value, FunctionType):
                    assert name not in found, f"two functions are called {name}"
                    found[name] = value
                elif inspect.isclass(value) and issubclass(value, Arch):
                    methods = vars(value).items()
                    found |= {
                        f"{name}.{n}": body for n, body in methods if isinstance(body, FunctionType)
                    }
    return dict(sorted(found.items()))
