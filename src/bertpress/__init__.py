"""Compress trained BERT-family encoders with any method of the literature, and measure what came out."""

__version__ = "0.1.0"
