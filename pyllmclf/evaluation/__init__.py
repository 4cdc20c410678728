"""Figures of an evaluation: metrics, intervals, calibration, plots and the report."""
