"""What is claimed of a host: one function for each claim, whose docstring is the claim.

`always` claims are predicates of a state, read when the locks they need are free; `sometimes`
claims ask whether a `cover` mark is ever reached; `never`, that it is not.  `eventually` claims
say what has to happen in the end.
"""

from mmuwitness.model.claims import always, conditional, devices, eventually, reached
from mmuwitness.model.claims.claim import (
    CLAIMS,
    EVENTUALLY,
    Claim,
    always_claims,
    eventually_claims,
    everywhere,
    find_claims,
)

__all__ = [
    "CLAIMS",
    "EVENTUALLY",
    "MODULES",
    "Claim",
    "always_claims",
    "eventually_claims",
    "everywhere",
    "find_claims",
]

MODULES = (always, conditional, devices, reached, eventually)
"""Where claims are: importing them fills CLAIMS and EVENTUALLY, in this order."""
