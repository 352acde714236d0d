"""change_pte of x86 maps the new page where no SPTE is: the next guest read makes no exit.

start() has zapped the SPTE, so change_pte of x86 finds nothing to change.  This one installs it,
as Yan Zhao's patches of 2023 did.  Nothing says that its own window is the only one that is open.
"""

from mmuwitness.model.kvm.kvm_host import Spte


class X86:
    def kvm_set_spte_gfn(self, kvm, range):
        present = kvm.spte[range.start].present
        kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
        return present
