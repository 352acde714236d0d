"""What guests and daemons do. A stand-in: the engine's own registry takes its place."""

from __future__ import annotations

from typing import Any

WORKLOADS: dict[str, Any] = {}
