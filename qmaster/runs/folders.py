"""Folders of the host that runs mount: whether one below a folder of ``--bind-mounts`` is where its path says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from ..errors import Forbidden
from ..models.paths import is_below
from ..models.validation import quote


def require_plain(sources: Iterable[str], folders: Collection[str]) -> None:
    """Require that no link leads from a folder of ``folders`` to a source below it. Blocks: call it in a thread.

    Raises:
        Forbidden: a source is a link, or there is no such folder on this machine.
    """
    for source in sources:
        for folder in folders:
            if source != folder and is_below(source, folder):
                expected = os.path.realpath(folder) + source[len(folder) :]
                if os.path.realpath(source) != expected or not os.path.isdir(expected):
                    raise Forbidden(f"--bind-mounts: {quote(source)} is no folder here, or a link leads to it")
