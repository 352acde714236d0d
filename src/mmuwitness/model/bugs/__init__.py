"""Bugs that people found the hard way, one file each: the fix undone in the fewest lines.

H and a number: a bug that a kernel had.  M: one in what drivers rely on that mirror an mm.  P: H on
powerpc.  R: a race of kernels that have change_pte which no release has fixed.  Numbers that are
missing are bugs that the model cannot express yet.
"""
