"""Figures taken from real files and real clocks: size, latency, throughput, memory, and their parts."""
