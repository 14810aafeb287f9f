"""quartermaster: functions and jobs on Docker and Docker Swarm over HTTP, with a token."""

__version__ = "0.3.0"
