"""Shoal's benchmarks: each figure is a ratio to something raw, measured in the same run. See docs/benchmarks.md."""
