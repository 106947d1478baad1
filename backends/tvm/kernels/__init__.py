"""Kernels, one family a file: what a family computes, how its loops are laid out."""
