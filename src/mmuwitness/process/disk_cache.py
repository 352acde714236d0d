"""What is costly to make, kept on disk: compiled code.

Nothing in a file is trusted unless its checksum is right; files appear under their final name
complete or not at all, so any number of processes may share a cache.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled code is kept: $MMUWITNESS_CACHE, else the user's cache directory."""
    if chosen := os.environ.get("MMUWITNESS_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmuwitness"


def cached(name: str, key: Iterable[str], build: Callable[[], bytes]) -> bytes:
    """The bytes made by `build`, from the cache if an entry of this name and key is there.

    `key` holds everything the bytes depend on. A damaged entry is made again; a cache that
    cannot be written costs a warning and the time of `build`.
    """
    digest = blake2b("\0".join(key).encode(), digest_size=16).hexdigest()
    path = cache_directory() / f"{name}-{digest}"
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if len(content) > 4 and int.from_bytes(content[:4], "little") == zlib.crc32(content[4:]):
        return content[4:]
    made = build()
    try:
        write_whole(path, zlib.crc32(made).to_bytes(4, "little") + made)
    except OSError as error:
        warnings.warn(
            f"cannot keep compiled code in {path.parent} ({error.strerror}): it is compiled again "
            "at every start; set MMUWITNESS_CACHE to a directory that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
    return made


def write_whole(path: Path, content: bytes) -> None:
    """Write under another name, then rename: a reader sees the whole file or none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
