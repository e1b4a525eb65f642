"""Measurements beside peers: ``python -m benchmarks.<name>``; each module says what it measures."""
