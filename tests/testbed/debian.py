"""A small Debian with Python: the base of quartermaster's image where no registry can be reached."""

import re
import shutil
import sys
from pathlib import Path

from testbed.engine import Engine
from testbed.process import run
from testbed.server import ROOT

BASE = "debian-python:local"
PACKAGES = "python3,python3-venv"
# What an engine gives its containers itself, and what nobody reads in one.
LEFT_OUT = ("dev", "proc", "sys", "var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man")
SHIPPED = ("build.sh", "Dockerfile", "LICENSE", "requirements.txt", "qmaster", "static", ".dockerignore")


# In memory, as packages are synced to the disk one by one; it is gone with the mount namespace.
MAKE = """
mount -t tmpfs -o mode=755 none "$1" && debootstrap --variant=minbase --include="$2" "$3" "$1" $4 >&2 && shift 4 &&
chroot "$0" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' && exec tar -C "$0" -c "$@" .
"""


class Debian:
    """A Debian of this machine's release, as an archive in a folder."""

    def __init__(self, folder: Path) -> None:
        release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
        assert release, "this Debian has no release name"
        self.archive = folder.with_suffix(".tar")
        folder.mkdir()
        flags = [f"--file={self.archive}", *(f"--exclude=./{name}/*" for name in LEFT_OUT)]
        make = ["unshare", "--mount", "sh", "-c", MAKE, str(folder), str(folder), PACKAGES, release[1]]
        self.python = run(*make, mirror(release[1]), *flags, timeout=400).strip()
        """The version of its Python, as "3.11"."""

    def load(self, engine: Engine) -> None:
        """Import it as `BASE`."""
        engine.cli("import", str(self.archive), BASE)

    def wheels(self, folder: Path) -> None:
        """Download what requirements.txt pins, for its Python, into the folder."""
        platforms = [f"--platform=manylinux_2_{glibc}_{run('uname', '-m').strip()}" for glibc in (36, 28, 17)]
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"]
        argv += [*platforms, f"--python-version={self.python}", f"--dest={folder}"]
        run(*argv, f"--requirement={ROOT}/requirements.txt", timeout=120)


def mirror(release: str) -> str:
    """The archive that this machine's packages come from; "" where its sources do not say."""
    named = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {release}")
    return next(iter(named.split()), "")


def checkout(folder: Path) -> Path:
    """A folder with what an image is built from, as in a clone whose umask shuts out all others."""
    folder.mkdir()
    for name in filter(lambda name: (ROOT / name).exists(), SHIPPED):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    run("chmod", "-R", "go=", str(folder))
    return folder
