"""Which container this process runs in, if any: quartermaster must not stop itself."""

from __future__ import annotations

import re
from pathlib import Path

# The engine mounts three files of the container's own folder into every container, on any cgroup version.
_MOUNT = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")


def own_container_id(mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The id of the container that this process runs in; None outside of one."""
    try:
        found = _MOUNT.search(mountinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
