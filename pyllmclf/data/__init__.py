"""Labelled texts: readers, splits, tokenizers, the token store, packed batches and their order."""
