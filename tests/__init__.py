"""The tests. A package, so that no other distribution that installs a `tests` of its own is found instead."""
