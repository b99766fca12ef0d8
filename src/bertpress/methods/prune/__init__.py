"""Fewer weights: single ones, heads, neurons, layers."""
