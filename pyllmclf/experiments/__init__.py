"""The published tables of experiments, and the runner that repeats them."""
