"""Figures against peers and limits, measured in one run, as ratios: `make bench [only=NAME]`.

Each `bench_<name>.py` has `measure() -> Iterable[Row]`; `__main__` finds them, runs them one after the
other on a quiet machine, and prints and writes the table. No figure here is ever an assertion in a test.
"""
