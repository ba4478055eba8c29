"""Figures of docs/benchmarks.md: `make bench`, or one at a time with `python -m benchmarks.NAME --help`."""
