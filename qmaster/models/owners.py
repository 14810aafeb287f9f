"""Who a run belongs to."""

from __future__ import annotations

ROOT = "root"
