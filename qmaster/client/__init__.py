"""The command line's way to a quartermaster: the HTTP API alone, and a terminal."""
