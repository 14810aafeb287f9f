"""``python -m qmaster``."""

import signal
import sys

if __name__ == "__main__":
    # A container's first process has no default for it (pid_namespaces(7)): without, a stop while it starts takes 10 s.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # A health check comes every ten seconds: without the server's imports it costs a tenth.
    if sys.argv[1:] == ["healthcheck"]:
        from . import healthcheck

        sys.exit(healthcheck.check())
    from .cli import main

    main(prog_name="python -m qmaster")
