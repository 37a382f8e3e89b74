"""Models, queries and ranking. Builds on `indexer`; loads torch only to build or train a model."""
