"""One dated fact about kernels, and how it is known."""

from dataclasses import dataclass
from typing import Final, Literal

Source = Literal["source read", "patch read", "from memory", "derived"]
SOURCE: Final = "source read"  # its code, in a kernel that has it
PATCH: Final = "patch read"  # its patch, its commit's text, or a list of the commits of a release
MEMORY: Final = "from memory"  # in part at least, and not found since
DERIVED: Final = "derived"  # the release, from the dates around it


@dataclass(frozen=True)
class Feature:
    """One dated fact about kernels."""

    name: str
    commit: str  # 12 digits or more
    subject: str  # of the commit
    since: str = ""  # the first release that has it; "" is before v2.6.32
    until: str = ""  # the first release without it; "" is still there
    until_commit: str = ""
    until_subject: str = ""
    arches: tuple[str, ...] = ()  # where it is; () is everywhere
    source: Source = MEMORY  # how it is known
    backports: tuple[str, ...] = ()  # stable levels: there from this one on in its series
    withdrawn: tuple[str, ...] = ()  # stable levels: gone from this one on in its series
    note: str = ""  # what it does, in the model's words
