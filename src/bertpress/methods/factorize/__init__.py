"""Matrices as products of thinner ones."""
