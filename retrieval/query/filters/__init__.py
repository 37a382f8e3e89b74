"""From a predicate in SQL to the segments that a search may find."""
