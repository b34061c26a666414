"""Benchmarks: everything that the docs claim in numbers is measured by a module of this package."""
