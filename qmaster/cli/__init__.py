"""The command line: commands on the HTTP API alone."""
