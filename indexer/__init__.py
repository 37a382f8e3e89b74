"""Media -> parts -> generations. Knows no torch and no model: it calls the protocols in `indexer.types`."""
