"""Bugs that people found the hard way, one file each: the fix undone in the fewest lines.

H and a number: a bug that a kernel had; up to H33 they are those of one list, and those that are
missing the model cannot express (H29: the table that a VM's teardown frees under a walk; H33, which
no release has fixed, is pinned as a verdict of cache_beside_window).  L: the other half of H7, that
nothing bad happens and nothing good either.  P: a bug of powerpc that the model found.  R: a race
that no release has fixed; R1 and R2 need change_pte, and went with it.
"""
