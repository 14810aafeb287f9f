"""The frames that are sent in vain: events of a given size."""

from qmaster.events import frames
from qmaster.events.frames import Frame

KIND = "io.qmaster.service.updated"
MARK = '"type":"event"'


def frame(number: int, size: int) -> Frame:
    """An event's frame whose JSON has so many bytes."""
    bare = len(frames.event(f"0a0b0c0d:{number}", KIND, b'{"data":""}').payload)
    return frames.event(f"0a0b0c0d:{number}", KIND, b'{"data":"' + b"x" * (size - bare) + b'"}')
