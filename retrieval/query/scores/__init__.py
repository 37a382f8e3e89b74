"""What scores mean in a collection: background queries, hubs, probabilities."""
