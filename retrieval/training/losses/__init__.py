"""Losses over two sets of unit vectors, one a file, each with its paper."""
