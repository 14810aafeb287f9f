"""Nodes and services as Docker lists them, for the tests of what is made of them."""

from datetime import UTC, datetime
from typing import Any

from fakes import node

Json = dict[str, Any]
NOW = datetime(2024, 5, 6, 7, 8, 20, tzinfo=UTC)
NODES = {"n1": node("n1"), "n2": node("n2", hostname="host-2"), "gone": node("gone", "down", "host-3")}
REPLICAS_2: Json = {"Mode": {"Replicated": {"Replicas": 2}}}
