"""The published tables of experiments, and what runs them again."""
