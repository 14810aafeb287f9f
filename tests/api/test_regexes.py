"""Patterns: none takes long over what somebody sends, in the server, in its client, or in the page."""

import ast
import contextlib
import json
import re
import shutil
import signal
import string
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import qmaster
from qmaster.models import requests
from qmaster.models.images import Reference

ROOT = Path(qmaster.__file__).parent
STATIC = ROOT.parent / "static"
METHODS = ("match", "fullmatch", "search", "sub", "split", "findall", "finditer")
SMALL, LARGE = 4096, 65536
SLOWEST = 4  # near-misses of a pattern that are tried at 64 KB
MOST_OF_SMALL = 0.006  # seconds of CPU for 4 KB
MOST = 0.5  # seconds of CPU; what backtracks takes ten or more, what does not some milliseconds
WORDS = ("aa==", "node ", "Expected `", " - at `", ", got `", "://", "\x1b]", "\x1b[", "a=", ",a=", "a.", "a-", "'a',")
OF_JS = re.compile(r"(?<![\w)/*'])/(?![/*\s])((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+)/([dgimsuvy]*)")
pytestmark = pytest.mark.slow


class Used(NamedTuple):
    """A pattern of the code, and how it is applied."""

    where: str
    pattern: Any
    method: str


def flags(call: ast.Call) -> int:
    given = [*call.args[2:], *call.args[1:2], *[keyword.value for keyword in call.keywords]]
    return sum(int(getattr(re, name)) for name in {"DOTALL", "IGNORECASE"} if any(name in ast.dump(g) for g in given))


def text_of(node: ast.AST) -> Any:
    """A literal, of one piece or of several."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.Attribute]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func


def is_re(function: ast.Attribute) -> bool:
    return isinstance(function.value, ast.Name) and function.value.id == "re"


def methods(trees: list[ast.AST]) -> dict[str, set[str]]:
    """The name of a compiled pattern → what it is asked."""
    found: dict[str, set[str]] = {}
    for tree in trees:
        for _, function in calls(tree):
            if function.attr in METHODS and not is_re(function):
                name = getattr(function.value, "id", getattr(function.value, "attr", ""))
                found.setdefault(name, set()).add(function.attr)
    return found


def of_python() -> Iterator[Used]:
    paths = sorted(ROOT.rglob("*.py"))
    trees: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    asked = methods(trees)
    for path, tree in zip(paths, trees, strict=True):
        names = {
            id(node.value): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for call, function in calls(tree):
            text = text_of(call.args[0]) if is_re(function) and call.args else None
            if not isinstance(text, str | bytes):
                continue
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            pattern = re.compile(text, flags(call))
            how = asked.get(names.get(id(call), ""), {"search"}) if function.attr == "compile" else {function.attr}
            yield from (Used(where, pattern, method) for method in sorted(how))
    yield from (Used("models/requests.py", re.compile(pattern), "search") for pattern in requests.PATTERNS)


def letters(source: str) -> list[str]:
    """One character of each kind that a pattern may know."""
    told = {c for c in source if c not in string.ascii_letters + string.digits + "\\"}
    return sorted(told | set("aA0 \t\n\x1b\x07é'\"`"))


def near_misses(source: str, size: int) -> Iterator[str]:
    """Something in front, much of something, and an end that fits nowhere."""
    units = [*letters(source), *WORDS, "aA", "a0", "0.", "[a]"]
    heads = ["", *WORDS, *set(re.findall(r"[A-Za-z`: =/(']{3,}", source))]
    for unit in units:
        much = unit * (size // len(unit))
        for head in heads:
            yield from (f"{head}{much}\x01", f"{head}{much}")


def taken(pattern: Any, method: str, text: str) -> float:
    """Seconds of CPU."""
    given = text.encode() if isinstance(pattern.pattern, bytes) else text
    apply: Callable[..., Any] = getattr(pattern, method)
    began = time.thread_time()
    apply(*([b"" if isinstance(given, bytes) else "", given] if method == "sub" else [given]))
    return time.thread_time() - began


@pytest.fixture
def cut_off() -> Iterator[None]:
    """Ends what never would."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("a pattern takes longer than 20 s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def slowest(used: Used) -> float:
    source = used.pattern.pattern if isinstance(used.pattern.pattern, str) else used.pattern.pattern.decode("latin-1")
    small = []
    for text in near_misses(source, SMALL):
        small.append(taken(used.pattern, used.method, text))
        if small[-1] > MOST_OF_SMALL and taken(used.pattern, used.method, text) > MOST_OF_SMALL:  # not by chance
            return small[-1] * (LARGE / SMALL) ** 2
    order = sorted(range(len(small)), key=small.__getitem__)[-SLOWEST:]
    large = (text for number, text in enumerate(near_misses(source, LARGE)) if number in order)
    return max(taken(used.pattern, used.method, text) for text in large)


ALL = list(of_python())


def test_the_patterns_are_found() -> None:
    """Wherever one is compiled or used, and those of requests."""
    where = {used.where.partition(":")[0] for used in ALL}
    assert {"models/requests.py", "models/validation.py", "server/config.py", "api/base.py", "cli/run.py"} <= where
    assert len(ALL) > 50


@pytest.mark.parametrize("used", ALL, ids=lambda used: f"{used.where}-{used.method}")
@pytest.mark.usefixtures("cut_off")
def test_no_pattern_backtracks(used: Used) -> None:
    """64 KB that nearly match take less than half a second."""
    assert slowest(used) < MOST


@pytest.mark.usefixtures("cut_off")
def test_such_a_pattern_is_seen() -> None:
    """The one that held the event loop for 13 s, and the other of its kind."""
    held = re.compile(r"^\s*[a-zA-Z_][a-zA-Z0-9_.-]+\s*(==|!=)\s*[a-zA-Z0-9:_\s.*()?+\[\]\\^$|/-]+$(?!\n)")
    assert slowest(Used("", held, "search")) > MOST
    assert slowest(Used("", re.compile(r"\x1b\][^\x07]*\x07"), "sub")) > MOST


@pytest.mark.usefixtures("cut_off")
def test_no_reference_takes_long() -> None:
    """Its grammar is another's; an image has 512 characters at most."""
    for text in near_misses("/:@._-", 510):
        began = time.thread_time()
        with contextlib.suppress(ValueError):
            Reference.parse(text)
        assert time.thread_time() - began < MOST, text[:40]


def of_js() -> list[tuple[str, str, str]]:
    found = []
    for path in sorted(STATIC.glob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.lstrip().startswith(("//", "*", "/*")):
                found += [(f"{path.name}:{number}", each[1], each[2]) for each in OF_JS.finditer(line)]
    return found


NODE = """
const [rows, cases] = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const slow = [];
for (const [where, source, flags] of rows) {
  const pattern = new RegExp(source, flags.replace('y', ''));
  for (const [head, unit, end] of cases) {
    const text = head + unit.repeat(65536 / unit.length) + end;
    const began = process.cpuUsage().user;
    text.replace(pattern, '');
    const seconds = (process.cpuUsage().user - began) / 1e6;
    if (seconds > 0.5) { slow.push([where, head + unit, seconds]); break; }
  }
}
console.log(JSON.stringify(slow));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_no_pattern_of_the_page_backtracks() -> None:
    """Output of a job is shown by it: a line of 64 KB takes less than half a second."""
    rows = of_js()
    assert {"log.js", "words.js", "form.js"} <= {where.partition(":")[0] for where, _, _ in rows}
    units = [*letters("".join(source for _, source, _ in rows)), *WORDS, "\x1b[0", "\x1b]0", "@sha256:"]
    cases = [[head, unit, end] for head in ("", *WORDS) for unit in units for end in ("", "\x01")]
    told = json.dumps([rows, cases])
    run = subprocess.run(["node", "-e", NODE], input=told, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(run.stdout) == []
