"""Calls of functions whose runtime is ``job``: each is a run of its own."""
