"""Comparisons with other libraries: each side is a process of its own, and they take turns on one core."""
