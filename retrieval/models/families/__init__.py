"""Pretrained models of other libraries as towers: their names, their files, their networks."""
