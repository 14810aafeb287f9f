"""``python -m qmaster``."""

import signal
import sys

if __name__ == "__main__":
    # A container's first process has no default for it (pid_namespaces(7)): without, a stop while it starts takes 10 s.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from .cli.main import main

    main(prog_name="python -m qmaster")
