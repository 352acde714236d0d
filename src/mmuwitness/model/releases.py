"""Every mainline release that the model knows, oldest first."""

# The first and the last minor number of each series: a new release is one number here.
SERIES = (
    ("v2.6", 32, 39),
    ("v3", 0, 19),
    ("v4", 0, 20),
    ("v5", 0, 19),
    ("v6", 0, 19),
    ("v7", 0, 3),
)
RELEASES = tuple(
    f"{series}.{minor}" for series, first, last in SERIES for minor in range(first, last + 1)
)


def release_key(name: str) -> tuple[int, ...]:
    """What releases and stable levels are compared by: ``release_key("v3.7") == (3, 7)``."""
    return tuple(int(part) for part in name.removeprefix("v").split("."))
