"""Images without a registry: busybox and its applets as an archive that `docker load` takes."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from testbed.process import run

BUSYBOX = "busybox:local"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# `sleep` as a container's first process has no handler for SIGTERM, so each stop of one takes the grace period of 10 s.
NAP = b"""#!/bin/sh
# nap [SECONDS]: a sleep that ends on SIGTERM, with 143
trap 'exit 143' TERM
sleep "${1:-86400}" & wait $!
"""


def _add(tar: tarfile.TarFile, name: str, data: bytes = b"", mode: int = 0o755, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode
    info.size = len(data)
    if link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif not data:
        info.type = tarfile.DIRTYPE
    tar.addfile(info, io.BytesIO(data))


@cache
def busybox_layer() -> bytes:
    """The root file system, the same bytes on each call: so an image has one id on all nodes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "var"):
            _add(tar, folder)
        _add(tar, "tmp", mode=0o1777)
        _add(tar, "bin/busybox", Path("/bin/busybox").read_bytes())
        _add(tar, "bin/nap", NAP)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)
        for applet in sorted(set(run("/bin/busybox", "--list").split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", link="busybox")
    return buffer.getvalue()


def archive(folder: Path, name: str = BUSYBOX, **config: Any) -> Path:
    """An image of busybox as a tar file; `config` as in Docker's image config (Cmd, Entrypoint, User, …)."""
    return save(folder, name, [busybox_layer()], {"Env": [PATH], "Cmd": ["sh"], **config})


def save(folder: Path, name: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> Path:
    """An image of these layers, each a tar, as a tar file that `docker load` takes."""
    document = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
        "history": [{"created": "2020-01-01T00:00:00Z"}] * len(layers),
        "created": "2020-01-01T00:00:00Z",
    }
    names = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.tar"
    with tarfile.open(path, "w") as tar:
        for layer_name, layer in zip(names, layers, strict=True):
            _add(tar, layer_name, layer, 0o644)
        _add(tar, "config.json", json.dumps(document).encode(), 0o644)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return path
