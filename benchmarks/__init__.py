"""Measurements against a rival in the same run, printed as ratios: ``make bench``. Never part of the tests."""
