"""Packages of npm, as pinned in the repository: installed once on a machine."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testbed.process import run

CACHE = Path(tempfile.gettempdir()) / "qmaster-images"


def modules(pins: Path, *options: str) -> Path:
    """The `node_modules` of the `package.json` and `package-lock.json` in the folder `pins`.

    `options` are those of `npm ci`. Raises `CommandFailed`.
    """
    files = [pins / "package.json", pins / "package-lock.json"]
    known = run("node", "--version").encode() + b"".join(file.read_bytes() for file in files)
    folder = CACHE / f"node-{hashlib.sha256(known).hexdigest()[:12]}"
    CACHE.mkdir(mode=0o700, exist_ok=True)
    assert CACHE.stat().st_uid == os.getuid(), f"{CACHE} is another user's"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder, files, options)
    return folder / "node_modules"


def _install(folder: Path, files: Sequence[Path], options: Sequence[str]) -> None:
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for file in files:
        shutil.copy(file, making)
    headers = {"npm_config_nodedir": "/usr"} if Path("/usr/include/node/node.h").exists() else {}
    command = ["npm", "ci", "--prefix", str(making), "--no-audit", "--no-fund", *options]
    run(*command, timeout=900, env={**os.environ, **headers})
    making.rename(folder)
