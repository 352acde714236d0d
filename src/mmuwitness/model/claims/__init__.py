"""What is claimed of a host: one function for each claim, whose docstring is the claim.

`always` claims are predicates of a state, read when the locks they need are free; `sometimes`
claims ask whether a `cover` mark is ever reached; `never`, that it is not.
"""

from mmuwitness.model.claims import always, conditional, devices, reached
from mmuwitness.model.claims.claim import CLAIMS, Claim, always_claims, everywhere, find_claims

__all__ = ["CLAIMS", "MODULES", "Claim", "always_claims", "everywhere", "find_claims"]

MODULES = (always, conditional, devices, reached)
"""Where claims are: importing them fills CLAIMS, in this order."""
