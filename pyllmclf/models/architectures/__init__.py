"""One module for each architecture, found by :mod:`pyllmclf.models.architectures.registry`."""
