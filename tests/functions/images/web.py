"""A small web application (ASGI) as a function: forms, redirects, bytes, cookies."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from mangum import Mangum

Json = MutableMapping[str, Any]
Send = Callable[[Json], Awaitable[None]]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360f8cf50000003010180a7d1e5750000000049454e44ae426082"
)
PAGE = """<!doctype html><title>A function</title><h1>Hello, {name}</h1><p id="seen">seen {seen}</p>
<img id="pixel" src="pixel.png"><form method="post" action="say"><input name="name"><button>Say</button></form>"""


async def app(scope: Json, receive: Callable[[], Awaitable[Json]], send: Send) -> None:
    path = scope["path"].rstrip("/") or "/"
    if path == "/pixel.png":
        await answer(send, 200, PIXEL, ("content-type", "image/png"))
    elif path == "/say" and scope["method"] == "POST":
        form = parse_qs((await receive())["body"].decode())
        await answer(send, 303, b"", ("location", f"{scope['root_path']}./?name={form['name'][0]}"))
    elif path == "/bytes":
        await answer(send, 200, (await receive())["body"][::-1], ("content-type", "application/octet-stream"))
    else:
        await page(scope, send)


async def page(scope: Json, send: Send) -> None:
    query = parse_qs(scope["query_string"].decode())
    cookies = [value.decode() for name, value in scope["headers"] if name == b"cookie"]
    text = PAGE.format(name=query.get("name", ["you"])[0], seen="; ".join(cookies) or "never")
    await answer(send, 200, text.encode(), ("content-type", "text/html; charset=utf-8"), ("set-cookie", "visit=1"))


async def answer(send: Send, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


handler = Mangum(app, lifespan="off")
