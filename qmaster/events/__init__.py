"""The event stream: journal, CloudEvents, broker, resume."""
