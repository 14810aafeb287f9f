"""How fast quartermaster is, each figure beside its reference in the same run. ``./build.sh bench``; see `__main__`."""
