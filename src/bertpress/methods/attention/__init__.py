"""Attention in which not every token looks at every other."""
