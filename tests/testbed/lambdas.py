"""Images of functions without a registry: AWS's clients of the runtime API on this machine's Python and Node."""

import io
import re
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from testbed import image, npm
from testbed.engine import Engine
from testbed.process import run

PYTHON, NODE, SHELL = "lambda-python:local", "lambda-node:local", "lambda-shell:local"
FUNCTIONS = Path(__file__).resolve().parents[1] / "functions" / "images"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "functions.md"
TASK, RUNTIME = "var/task", "var/runtime"  # where AWS's images have the function, and the client

# Of the standard library, what no function imports.
LEFT_OUT = re.compile(
    r"(^|/)(site-packages|dist-packages|test|tests|idlelib|ensurepip|tkinter|turtledemo|lib2to3|config-[^/]+)(/|$)"
    r"|\.opt-\d\.pyc$|\.a$"
)


class Tree:
    """A tar of files of this machine, with their times: a compiled module names that of its source."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        # Links as what they lead to, and none that only the tar has.
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", dereference=True)  # noqa: SIM115 - `done` closes it
        self._has: set[str] = set()

    def add(self, source: Path, name: str) -> None:
        """A file, or a folder with all that is in it; what is there already stays."""
        name = name.strip("/")
        if name in self._has or LEFT_OUT.search(name):
            return
        self._has.add(name)
        info = self._tar.gettarinfo(source, name)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        if info.isdir():
            self._tar.addfile(info)
            for entry in sorted(source.iterdir()):
                self.add(entry, f"{name}/{entry.name}")
        elif info.isreg():
            with source.open("rb") as file:
                self._tar.addfile(info, file)

    def temporary(self) -> None:
        """The folder that anyone may write to."""
        info = tarfile.TarInfo("tmp")
        info.type, info.mode = tarfile.DIRTYPE, 0o1777
        self._tar.addfile(info)

    def program(self, path: Path, extensions: Iterable[Path] = ()) -> None:
        """A program and the libraries that it loads, and what its extensions load."""
        self.temporary()
        self.add(path, str(path))
        self.libraries([path, *extensions])

    def libraries(self, files: Sequence[Path]) -> None:
        """The libraries that these load, where they are on this machine."""
        for library in sorted(set(re.findall(r"(/\S+) \(0x", run("ldd", *map(str, files))))):
            self.add(Path(library), library)

    def distribution(self, name: str, folder: str) -> None:
        """An installed distribution, with those that it requires."""
        found = metadata.distribution(name)
        for file in found.files or ():
            at = Path(str(found.locate_file(file)))
            if not file.parts[0].startswith("..") and ".dist-info" not in file.parts[0]:
                self.add(at, f"{folder}/{file}")
                if at.suffix == ".so":
                    self.libraries([at])
        for required in found.requires or ():
            if "extra ==" not in required:
                self.distribution(re.split(r"[^\w.-]", required)[0], folder)

    def done(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def python(folder: Path) -> Path:
    """The archive of `PYTHON`: this Python, `awslambdaric` and Mangum, and the handlers of `tests/functions/images`."""
    library = Path(sysconfig.get_path("stdlib"))
    program = (Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}").resolve()
    base, client, task = Tree(), Tree(), Tree()
    base.program(program, (library / "lib-dynload").glob("*.so"))
    base.add(library, str(library))
    for name in ("awslambdaric", "mangum"):
        client.distribution(name, RUNTIME)
    for file in sorted(FUNCTIONS.glob("*.py")):
        task.add(file, f"{TASK}/{file.name}")
    config = {
        "Entrypoint": [str(program), "-m", "awslambdaric"],
        "Cmd": ["app.echo"],
        "Env": [image.PATH, f"PYTHONPATH=/{RUNTIME}", f"LD_LIBRARY_PATH={sys.base_prefix}/lib"],
        "WorkingDir": f"/{TASK}",
    }
    return image.save(folder, PYTHON, [part.done() for part in (base, client, task)], config)


def node(folder: Path) -> Path:
    """The archive of `NODE`: this Node, `aws-lambda-ric` and the handlers."""
    program = Path(shutil.which("node") or "node").resolve()
    base, client, task = Tree(), Tree(), Tree()
    modules = node_client()
    base.program(program, [modules / "dist" / "rapid-client.node"])
    for part in ("bin", "dist", "package.json"):
        client.add(modules / part, f"{RUNTIME}/{part}")
    task.add(FUNCTIONS / "app.mjs", f"{TASK}/app.mjs")
    config = {
        "Entrypoint": [str(program), f"/{RUNTIME}/bin/index.mjs"],
        "Cmd": ["app.echo"],
        "Env": [image.PATH],
        "WorkingDir": f"/{TASK}",
    }
    return image.save(folder, NODE, [part.done() for part in (base, client, task)], config)


def node_client() -> Path:
    """The folder of `aws-lambda-ric`, as pinned beside the handlers; its native part takes a minute to compile."""
    return npm.modules(FUNCTIONS) / "aws-lambda-ric"


def shell(folder: Path) -> Path:
    """The archive of `SHELL`: busybox, curl, and the client of seven lines that docs/functions.md shows."""
    client = Tree()
    client.program(Path("/usr/bin/curl"))
    path = folder / "client"
    (text,) = re.findall(r"^```shell\n(api=.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    path.write_text(text)
    client.add(path, "client")
    config = {"Entrypoint": ["sh", "/client"], "Env": [image.PATH]}
    return image.save(folder, SHELL, [image.busybox_layer(), client.done()], config)


def load(archive: Path, engines: Sequence[Engine]) -> None:
    """Load it on all of them at once."""
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(lambda engine: engine.cli("load", "--quiet", "--input", str(archive)), engines))
