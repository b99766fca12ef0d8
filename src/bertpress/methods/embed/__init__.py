"""Smaller embedding tables: fewer tokens, codes in place of vectors."""
