"""A user's own change: a Python file that overrides process functions, hooks and features, and may
have scenarios of its own."""

from __future__ import annotations

import ast
import difflib
import hashlib
import inspect
import linecache
import re
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmuwitness.explore.explorer import Schedule
from mmuwitness.explore.programs import Compiled
from mmuwitness.explore.schedule_id import BadSchedule
from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.bugs.bug import known_scenario
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.functions import functions
from mmuwitness.model.host import ARCHES, Host, find_arch
from mmuwitness.model.scenarios import LARGE, SCENARIOS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.model.sizes import Sizes
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.language import qualified_name

FEATURES = "FEATURES"
OWN_SCENARIO, OWN_SCENARIOS = "SCENARIO", "SCENARIOS"
PLUS = "+"
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Variant:
    """What a file changes.  path: as the user wrote it; digest: names its text.

    overrides: by qualified name, on every architecture.  hooks: of a class of architectures.
    scenarios: the file's own, by name."""

    path: str
    digest: str
    overrides: Mapping[str, types.FunctionType]
    hooks: Sequence[tuple[type[Arch], str, types.FunctionType]]
    features: tuple[str, ...]
    scenarios: Mapping[str, Scenario]

    @property
    def tag(self) -> str:
        """Names it in the ID of a schedule, and which text of it."""
        return f"{re.sub(r'[^A-Za-z0-9_-]', '_', Path(self.path).stem)}.{self.digest}"

    def kernel(self, era: Era) -> Era:
        return era.with_change(*self.features)

    def overrides_on(self, arch: Arch) -> dict[str, types.FunctionType]:
        """Where two classes change one function, the more special one does."""
        hooks = sorted(self.hooks, key=lambda each: len(each[0].__mro__))
        return {
            **self.overrides,
            **{name: hook for cls, name, hook in hooks if isinstance(arch, cls)},
        }

    def find_scenario(self, name: str) -> Scenario:
        """The file's own, or one of the model; UnknownName lists what exists."""
        known = {**SCENARIOS, **LARGE, **self.scenarios}
        if name not in known:
            raise UnknownName("scenario", name, [*self.scenarios, *SCENARIOS, *LARGE])
        return known[name]

    def scenario(self, scenario: Scenario, arch: str) -> Scenario:
        """The scenario on the changed model, under a name of its own: no cache takes the one for
        the other."""
        name = f"{scenario.name}{PLUS}{self.tag}"
        overrides = {**scenario.overrides, **self.overrides_on(find_arch(arch))}
        changes = (*scenario.changes, *self.features)
        return replace(scenario, name=name, overrides=overrides, changes=changes, variant=self.path)

    def touched(self, unchanged: Compiled, era: Era, arch: str) -> set[str]:
        """What of the change the unchanged program of a scenario runs or reads, by name."""
        made, changed = find_arch(arch), self.kernel(era)
        read = unchanged.features.items()
        return self.overrides_on(made).keys() & set(unchanged.functions) | {
            name for name, value in read if changed.has(name, made.kernel_arch) != value
        }

    def run_by(self, own: Compiled, arch: str) -> set[str]:
        """What of the change a scenario of the file runs or reads, by name."""
        overrides = self.overrides_on(find_arch(arch)).keys()
        features = {name[1:] for name in self.features}
        return overrides & set(own.functions) | features & own.features.keys()

    def names(self, arch: str) -> list[str]:
        """All that it changes on an architecture, as `touched` names it."""
        return sorted({*self.overrides_on(find_arch(arch)), *(f[1:] for f in self.features)})


def load_variant(path: str) -> Variant:
    """The variant in a file; ProcessError points to the line that is wrong."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ProcessError(f"{path} cannot be read: {error}") from None
    file = VariantFile(path, text)
    overrides, hooks = {}, []
    for name, node in file.defined():
        value = file.names.get(name)
        if isinstance(node, ast.FunctionDef) and name in functions():
            overrides[qualified_name(functions()[name])] = file.checked(value, functions()[name])
        elif isinstance(node, ast.ClassDef) and name in arch_classes():
            hooks += [(arch_classes()[name], *hook) for hook in file.hooks(value, node)]
        elif name not in (FEATURES, OWN_SCENARIO, OWN_SCENARIOS) and name not in file.used:
            raise file.unknown(name, node)
    features, scenarios = file.features(), file.scenarios()
    if not (overrides or hooks or features or scenarios):
        hint = (
            "define a function that the model has, a class of arch/ with its hooks, FEATURES or"
            " a SCENARIO"
        )
        raise ProcessError(f"{file.short} changes nothing of the model", hint=hint)
    return Variant(path, file.digest, overrides, tuple(hooks), features, scenarios)


def changed_schedule(schedule: Schedule, path: str | None) -> tuple[Schedule, Scenario | None]:
    """A schedule and the scenario it is of: one on a changed model, or None for the model's own.
    BadSchedule if it was not found with this file, as it is now."""
    name, _, tag = schedule.scenario.partition(PLUS)
    if path is None:
        if tag:
            file = tag.rpartition(".")[0]
            raise BadSchedule(f"this schedule is of a variant: add --variant FILE ({file}.py)")
        return schedule, None
    variant = load_variant(path)
    if tag != variant.tag:
        of = f"another text, {tag}" if tag else "the model without a variant"
        raise BadSchedule(
            f"this schedule is not of {path} as it is now ({variant.tag}): it is of {of}"
        )
    scenario = variant.scenario(variant.find_scenario(name), schedule.arch)
    return replace(schedule, variant=path), scenario


def arch_classes() -> dict[str, type[Arch]]:
    """Every class that an architecture is made of, by name."""
    return {
        cls.__name__: cls
        for made in ARCHES.values()
        for cls in type(made).__mro__
        if issubclass(cls, Arch)
    }


class VariantFile:
    """The text of a variant, run once: what it defines, and errors that point to its lines."""

    def __init__(self, path: str, text: str) -> None:
        self.path = str(Path(path).resolve())
        self.short = Path(path).name
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
        self.lines = text.splitlines()
        linecache.checkcache(self.path)
        # the name differs from text to text: what is known of one is not believed of another
        self.names: dict[str, Any] = {"__name__": f"variant_{self.digest}", "__file__": path}
        try:
            self.tree = ast.parse(text, self.path)
            exec(compile(self.tree, self.path, "exec"), self.names)
        except SyntaxError as error:
            raise self.error(error.msg, error.lineno or 1, (error.offset or 1) - 1) from None
        except (Exception, SystemExit) as error:
            raise self.error_in_run(error) from None
        loaded = (n for n in ast.walk(self.tree) if isinstance(n, ast.Name))
        self.used = {n.id for n in loaded if isinstance(n.ctx, ast.Load)}

    def error(self, message: str, line: int, column: int = 0, hint: str = "") -> ProcessError:
        shown = self.lines[line - 1].rstrip() if 0 < line <= len(self.lines) else ""
        where = f"\n    {shown}\n    {' ' * column}^" if shown else ""
        return ProcessError(f"{self.short}:{line}: {message}{where}", hint=hint)

    def error_in_run(self, error: BaseException) -> ProcessError:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == self.path), 1)
        return self.error(f"{type(error).__name__}: {error}", line or 1)

    def defined(self) -> Iterator[tuple[str, ast.stmt]]:
        """The names that the file binds, apart from imports, with where it does."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name, node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                    if not name.id.startswith("__"):
                        yield name.id, node
            elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr):
                hint = "a variant holds imports, functions, classes and constants"
                raise self.error("this cannot be read without running it", node.lineno, 0, hint)

    def checked(self, function: Any, original: types.FunctionType) -> types.FunctionType:
        """An override takes the arguments of what it stands for."""
        if not isinstance(function, types.FunctionType):
            raise self.error("an override is a plain function", self.line_of(function, original))
        mine, theirs = (tuple(inspect.signature(f).parameters) for f in (function, original))
        if mine != theirs:
            hint = f"write def {function.__name__}({', '.join(theirs)}):"
            message = f"{function.__name__}() has other arguments in the model"
            raise self.error(message, function.__code__.co_firstlineno, 0, hint)
        return function

    def line_of(self, function: Any, original: types.FunctionType) -> int:
        found = (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef))
        return next((n.lineno for n in found if n.name == original.__name__), 1)

    def hooks(self, mine: Any, node: ast.ClassDef) -> Iterator[tuple[str, types.FunctionType]]:
        """The methods of a class by the qualified names of what the model calls in their place."""
        cls = arch_classes()[node.name]
        for part in node.body:
            if isinstance(part, ast.Expr | ast.Pass):
                continue
            if not isinstance(part, ast.FunctionDef):
                hint = "write a method, or put what it decides into one"
                raise self.error(
                    f"only methods of {node.name} can be overridden",
                    part.lineno,
                    part.col_offset,
                    hint,
                )
            original = getattr(cls, part.name, None)
            if not isinstance(original, types.FunctionType):
                known = [n for n in dir(cls) if isinstance(getattr(cls, n), types.FunctionType)]
                hint = nearest(part.name, known) + "; a helper is a function outside of the class"
                message = f"{node.name} has no method {part.name}()"
                raise self.error(message, part.lineno, part.col_offset, hint)
            yield qualified_name(original), self.checked(vars(mine)[part.name], original)

    def unknown(self, name: str, node: ast.stmt) -> ProcessError:
        if isinstance(node, ast.FunctionDef):
            message = f"the model has no function {name}(), and nothing here calls it"
            known: Iterable[str] = functions()
        elif isinstance(node, ast.ClassDef):
            message = f"the model has no architecture class {name}, and nothing here uses it"
            known = arch_classes()
        else:
            message, known = f"nothing reads {name}", [FEATURES, OWN_SCENARIO, OWN_SCENARIOS]
        return self.error(message, node.lineno, node.col_offset, nearest(name, known))

    def features(self) -> tuple[str, ...]:
        """The changes that `FEATURES = ("+NAME", "-NAME")` asks for."""
        given = self.names.get(FEATURES, ())
        line = self.line_of_constant(FEATURES)
        if not isinstance(given, tuple | list) or not all(isinstance(each, str) for each in given):
            hint = 'write FEATURES = ("+NAME", "-NAME")'
            raise self.error("FEATURES is not a tuple of texts", line, 0, hint)
        try:
            return Era("v6.1", tuple(given)).changes
        except ValueError as error:
            raise self.error(str(error), line) from None

    def line_of_constant(self, wanted: str) -> int:
        return next((node.lineno for name, node in self.defined() if name == wanted), 1)

    def scenarios(self) -> dict[str, Scenario]:
        """`SCENARIO = Scenario(...)` or `SCENARIOS = (Scenario(...), ...)`, by name."""
        found: dict[str, Scenario] = {}
        for constant in (OWN_SCENARIO, OWN_SCENARIOS):
            given = self.names.get(constant, ())
            for each in given if isinstance(given, tuple | list) else (given,):
                problem, hint = self.problem_of(each, found)
                if problem:
                    raise self.error(problem, self.line_of_constant(constant), 0, hint)
                found[each.name] = self.guarded(each)
        return found

    def problem_of(self, scenario: Any, before: Iterable[str]) -> tuple[str, str]:
        """What is wrong with a scenario before it is wired, and what to do; ("", "")."""
        if not isinstance(scenario, Scenario):
            hint = "from mmuwitness.model.scenarios.scenario import Scenario"
            return f"{scenario!r} is not a Scenario", hint
        name = scenario.name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            return f"a scenario cannot be called {name!r}", "use small letters, digits and _"
        if name in before or known_scenario(name) is not None:
            return f"there is a scenario {name} already", "call it something else"
        sizes = [field.name for field in fields(Sizes)]
        unknown = next((size for size in scenario.sizes if size not in sizes), None)
        if unknown is not None:
            return f"{name}: a host has no size {unknown!r}", nearest(unknown, sizes)
        return "", ""

    def guarded(self, scenario: Scenario) -> Scenario:
        """The scenario, whose wiring says where in the file it goes wrong."""

        def guard(function: Callable[[Host], Any]) -> Callable[[Host], Any]:
            def wired(host: Host) -> Any:
                try:
                    return function(host)
                except Exception as error:
                    raise self.error_in_run(error) from None

            return wired

        setup, actors = guard(scenario.setup), guard(scenario.actors)
        return replace(scenario, setup=setup, actors=actors)


def nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3) or (names if len(names) < 16 else [])
    return f"did you mean {' or '.join(close)}?" if close else "see `mmuwitness list functions`"
