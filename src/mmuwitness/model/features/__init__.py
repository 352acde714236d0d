"""The facts that differ between kernels: one row each, with its commit and its dates.

A difference between kernels is a row here and a question to `Era.has` in the model, never a
comparison of versions. A name has more than one row where arches or times differ.

Names are the newest ones. Since commit 20ec3ebd707c ("KVM: Rename mmu_notifier_* to
mmu_invalidate_*") in v6.0 they are mmu_invalidate_in_progress and mmu_invalidate_seq; before that,
mmu_notifier_count and mmu_notifier_seq.
"""

from mmuwitness.model.features.arches import ARCHES
from mmuwitness.model.features.feature import Feature
from mmuwitness.model.features.kvm import KVM
from mmuwitness.model.features.mm import MM
from mmuwitness.model.features.x86 import X86

FEATURES: tuple[Feature, ...] = (*MM, *KVM, *X86, *ARCHES)
