"""Put back what reading a data set changes in it."""

from contextlib import contextmanager


@contextmanager
def preserved_contents(*roots):
    yield
