"""Attention in which not every token sees every other."""
