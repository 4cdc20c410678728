"""Models: architectures, weights, adapters, and the classifier on packed batches."""
