"""A small Debian with Python: the base of quartermaster's image where no registry can be reached."""

import re
import shutil
import sys
from pathlib import Path

from testbed.engine import Engine
from testbed.process import CommandFailed, run, start
from testbed.server import ROOT

BASE = "debian-python:local"
PACKAGES = "python3,python3-venv"
# What an engine gives its containers itself, and what nobody reads in one.
LEFT_OUT = ("dev", "proc", "sys", "var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/man")
SHIPPED = (
    ".dockerignore",
    "build.sh",
    "Dockerfile",
    "entrypoint.sh",
    "LICENSE",
    "requirements.txt",
    "qmaster",
    "static",
)
# In memory, as packages are synced to the disk one by one; it is gone with the mount namespace.
MAKE = """
mount -t tmpfs -o mode=755 none "$1" && debootstrap --variant=minbase --include="$2" "$3" "$1" $4 && cd "$1" &&
shift 4 && exec tar -c "$@" .
"""


class Debian:
    """A Debian of this machine's release, as an archive in a folder.

    It is made in the background, in the time that nobody else wants: it takes half a minute.
    """

    def __init__(self, folder: Path) -> None:
        release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
        assert release, "this Debian has no release name"
        self._archive, self._log = folder.with_suffix(".tar"), folder.with_suffix(".log")
        folder.mkdir()
        # Whatever becomes of the tests, nothing of it stays.
        argv = ["setpriv", "--pdeathsig", "KILL", "chrt", "--idle", "0"]
        argv += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", MAKE, "sh"]
        argv += [str(folder), PACKAGES, release[1], mirror(release[1])]
        argv += [f"--file={self._archive}", *(f"--exclude=./{name}/*" for name in LEFT_OUT)]
        self._making = start(argv, self._log)

    def load(self, engine: Engine) -> None:
        """Import it as `BASE`."""
        if self._making.popen.wait(400):
            raise CommandFailed(f"no Debian: {self._log.read_text(errors='replace')[-2000:]}")
        engine.cli("import", str(self._archive), BASE)

    def end(self) -> None:
        """End what makes it."""
        self._making.kill()


def mirror(release: str) -> str:
    """The archive that this machine's packages come from; "" where its sources do not say."""
    named = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {release}")
    return next(iter(named.split()), "")


def download(engine: Engine, folder: Path) -> None:
    """Put what requirements.txt pins, for the Python of `BASE`, into the folder."""
    what = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = engine.cli("run", "--rm", BASE, "python3", "-c", what).strip()
    platforms = [f"--platform=manylinux_2_{glibc}_{run('uname', '-m').strip()}" for glibc in (36, 28, 17)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"]
    argv += [*platforms, f"--python-version={python}", f"--dest={folder}"]
    run(*argv, f"--requirement={ROOT}/requirements.txt", timeout=120)


def checkout(folder: Path) -> Path:
    """A folder with what an image is built from, as in a clone whose umask shuts out all others."""
    folder.mkdir()
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for name in ("data", ".venv"):  # as a clone has that is used
        (folder / name).mkdir()
        (folder / name / "file").touch()
    run("chmod", "-R", "go=", str(folder))
    return folder
