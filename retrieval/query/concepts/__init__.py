"""Concepts: learned from examples, kept in an index, searched as a term."""
