"""The status page: ``GET /`` and ``GET /static/{file}``, without a token: the page asks for it."""

from __future__ import annotations

import email.utils
import functools
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..auth.authenticator import Authenticator
from ..errors import NotFound
from .base import BaseHandler

INDEX = "index.html"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Only files of this server, nothing inline, and no markup made from text by a script. 'self' covers the websocket
# of the same origin too (CSP 3; WebKit since Safari 15.4). Scripts come from /static/ alone, as the function URLs below
# /fn/ are of this origin too; a source with a path needs the host.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # stored, but revalidated, so that old and new files do not mix after an upgrade
}

_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_CODING = re.compile(r"([^\s;]+)(?:\s*;\s*q=(0(?:\.[0-9]*)?|1(?:\.0*)?))?", re.IGNORECASE)


class File(NamedTuple):
    """A file of the page; ``packed`` is its body as gzip, ``modified`` is in seconds since 1970."""

    body: bytes
    packed: bytes
    type: str
    modified: float


def folder() -> Path:
    """Return the page's folder: in an installed package, else beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "static"
    return installed if installed.is_dir() else package.parent / "static"


@functools.cache
def read(static: Path) -> Mapping[str, File]:
    """Return the page's files by name, as they are at the first call; an installation may have none."""
    return {path.name: _read(path) for path in sorted(static.glob("*")) if path.suffix in TYPES}


def _read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, gzip.compress(body, mtime=0), TYPES[path.suffix], path.stat().st_mtime)


def prefers_gzip(accepted: str) -> bool:
    """Return whether gzip is acceptable, and no less than no coding: RFC 9110, section 12.5.3.

    Args:
        accepted: the value of ``Accept-Encoding``; "": none was sent. What is malformed in it does not count.
    """
    codings = (_CODING.fullmatch(part.strip()) for part in accepted.split(","))
    weights = {coding[1].lower(): float(coding[2] or 1) for coding in codings if coding}
    others = weights.get("*", 0)
    return 0 < weights.get("gzip", others) >= weights.get("identity", others)


class PageHandler(BaseHandler):
    """``GET /`` and ``GET /static/{file}``: files are read at the start, so no path of a request reaches the disk."""

    IS_KEPT = True

    def initialize(self, auth: Authenticator, busy: set[object], files: Mapping[str, File]) -> None:
        super().initialize(auth, busy)
        self._files = files

    def set_default_headers(self) -> None:
        super().set_default_headers()
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("Content-Security-Policy", POLICY.format(scripts=self._scripts()))

    def _scripts(self) -> str:
        """Return the source of scripts; a policy cannot name an IPv6 address."""
        host = self.request.host
        return f"{host}/static/" if _HOST.fullmatch(host) else "'self'"

    def get(self, name: str = INDEX) -> None:
        file = self._files.get(name)
        if file is None:
            raise NotFound("no such file of the status page")
        self.set_header("Content-Type", file.type)
        self.set_header("Last-Modified", email.utils.formatdate(file.modified, usegmt=True))
        self.add_header("Vary", "Accept-Encoding")
        if prefers_gzip(self.request.headers.get("Accept-Encoding", "")):
            self.set_header("Content-Encoding", "gzip")
            self.finish(file.packed)
        else:
            self.finish(file.body)

    head = get
