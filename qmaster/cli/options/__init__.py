"""The options of commands: those that are fields of a run, the kinds of their values, and the files that they name."""
