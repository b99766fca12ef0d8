"""Weights that several parts of a model compute with."""
