"""Bugs that people found the hard way, one file each: the fix undone in the fewest lines.

H and a number: a bug that a kernel had.  P: the same on powerpc.  R: a race that no release has
fixed; R1 and R2 need change_pte, and went with it.  Numbers that are missing are bugs that the
model cannot express yet.
"""
