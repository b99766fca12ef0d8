"""Elimination of tokens: upper layers work on fewer of them."""
