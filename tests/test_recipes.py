"""The programs of docs/functions.md do what the page says."""

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from snippets import blocks

BODY = '{"action": "opened", "name": "grüß"}'


class Accepting(BaseHTTPRequestHandler):
    """A quartermaster that accepts each call."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(202)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Accepting) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def webhook(server: HTTPServer) -> Any:
    """The handler of the recipe; its secrets are their names, and quartermaster is ``server``."""
    (block,) = (block for block in blocks() if "x-hub-signature-256" in block.text)
    names: dict[str, Any] = {}
    exec(block.text.replace("10.0.0.5:9090", f"127.0.0.1:{server.server_port}"), names)  # noqa: S102 - text of ours
    names["secret"] = str.encode
    return names["handler"]


def delivery(body: str, key: str = "github", **over: Any) -> dict[str, Any]:
    signed = hmac.new(key.encode(), BODY.encode(), hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={signed}", "x-github-delivery": "delivery-1"}
    return {"headers": headers, "body": body, "isBase64Encoded": False, **over}


def test_a_webhook_is_handed_on(server: Any) -> None:
    """As an asynchronous call with the delivery's id as its key, whether the body came as text or as base64."""
    handler = webhook(server)
    encoded = base64.b64encode(BODY.encode()).decode()
    for event in (delivery(BODY), delivery(encoded, isBase64Encoded=True)):
        assert handler(event, None) == {"statusCode": 202}
        path, headers, body = server.asked.pop()
        assert (path, body) == ("/functions/deliveries/invoke", BODY.encode())
        told = {name: headers[name] for name in ("Authorization", "Prefer")}
        assert told == {"Authorization": "Bearer qmaster", "Prefer": "respond-async"}
        assert {name.lower(): value for name, value in headers.items()}["idempotency-key"] == "delivery-1"


def test_a_forged_webhook_is_refused(server: Any) -> None:
    """Another key's signature, another body, or none."""
    handler = webhook(server)
    unsigned = delivery(BODY)
    del unsigned["headers"]["x-hub-signature-256"]
    for event in (delivery(BODY, "another"), delivery(BODY + " "), unsigned):
        assert handler(event, None) == {"statusCode": 401}
    assert server.asked == []
