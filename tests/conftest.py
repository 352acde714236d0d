"""What every test shares: a plain terminal, repeatable Hypothesis runs and golden files."""

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"

# Output is compared as text, here and in the processes that tests start.
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "100"
os.environ.pop("FORCE_COLOR", None)

# The same examples on every run: a failure in CI is a failure at home.
settings.register_profile(
    "mmuwitness",
    derandomize=True,
    deadline=None,  # the first call of a compiled function takes as long as its compilation
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mmuwitness")


def accepting() -> bool:
    return os.environ.get("MMUWITNESS_GOLDEN") == "accept"


def compare_golden(directory: Path, name: str, text: str) -> str | None:
    """None if `text` is what the golden file holds (or is accepted), else what to say."""
    path = directory / name
    text = text.rstrip("\n") + "\n"
    if accepting():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return None
    if not path.exists():
        return f"tests/golden/{name} does not exist; to write it: make golden\n\n{text}"
    expected = path.read_text(encoding="utf-8")
    if text == expected:
        return None
    diff = difflib.unified_diff(
        expected.splitlines(keepends=True),
        text.splitlines(keepends=True),
        f"tests/golden/{name}",
        "printed now",
    )
    return f"{''.join(diff)}\nif the new text is right: make golden, and review the diff"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """`golden(name, text)`: the text must be what tests/golden/NAME holds."""

    def check(name: str, text: str) -> None:
        complaint = compare_golden(GOLDEN, name, text)
        if complaint is not None:
            pytest.fail(complaint, pytrace=False)

    return check


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """`make golden` runs the tests that use the fixture and those in tests/golden."""
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()) or GOLDEN in item.path.parents:
            item.add_marker("golden")
