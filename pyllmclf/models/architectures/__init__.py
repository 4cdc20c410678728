"""The architectures, one module each, which :mod:`pyllmclf.models.architectures.registry` finds."""
