"""Differences between two designs, paired by seed, and how sure they are: Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1 on.
T_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
Z_95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; `half` is None of one value, which has none."""

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float:
        """Where it begins."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.mean + (self.half or 0.0)

    @property
    def sign_is_sure(self) -> bool:
        """0 is outside of it."""
        return self.half is not None and abs(self.mean) > self.half


def t_quantile(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: at least two values are needed")
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    # Cornish and Fisher: from 11 degrees of freedom on, good to four digits.
    z, n = Z_95, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def interval(values: Sequence[float]) -> Interval:
    """The mean of these values, one for each seed, and its interval."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count), count)
