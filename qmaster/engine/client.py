"""The SDK's client, with the two calls it cannot make: a request with this call's own headers, and only those.

The SDK's own methods take registry credentials from a shared configuration or from ``~/.docker/config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import docker
import docker.utils
import msgspec
import requests
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ProtocolError
from urllib3.response import BaseHTTPResponse

from .chunked import Chunked
from .listed import Listing

CHUNK = 64 * 1024  # bytes at most
_PLAIN = frozenset({"params", "data", "json", "headers", "timeout", "allow_redirects"})


class Client(docker.APIClient):
    """For one thread alone; ``timeout`` (seconds) bounds the next call's every read."""

    timeout: float  # type: ignore[assignment]  # the stubs say int; requests takes both
    _connections: HTTPConnectionPool | None = None

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # REQUESTS_CA_BUNDLE and its like would win over the ca.pem of DOCKER_CERT_PATH.
        self.trust_env = False
        return super().merge_environment_settings(*args, **kwargs)

    def request(self, method: str, url: str, **given: Any) -> requests.Response:  # type: ignore[override]
        """What is sent and read whole goes over one connection, without what an engine has no use for.

        That is cookies, hooks, redirects, and, on a unix socket, a connection for each URL: half the time of a call.
        All else goes the SDK's way.
        """
        if given.keys() <= _PLAIN and isinstance(given.get("data"), str | bytes | None) and given.get("json") is None:
            headers = {**cast(dict[str, str], self.headers), **(given.get("headers") or {})}
            answer = self._pool(url).urlopen(
                method,
                _target(url, given.get("params")),
                body=given.get("data"),
                headers=headers,
                timeout=given.get("timeout", self.timeout),
                retries=False,
                redirect=False,
            )
            if not 300 <= answer.status < 400:
                return _response(answer, url, headers)
        return super().request(method, url, **given)

    def _result(self, response: requests.Response, json: bool = False, binary: bool = False) -> Any:
        if json:
            self._raise_for_status(response)  # type: ignore[attr-defined]
            try:
                return msgspec.json.decode(response.content)  # a listing of many takes a third of the time
            except msgspec.DecodeError:
                return response.json()
        return super()._result(response, json, binary)  # type: ignore[misc]

    def _pool(self, url: str) -> HTTPConnectionPool:
        """The connections to the engine; one is in it, as one thread has this client."""
        if self._connections is None:
            adapter: Any = self.get_adapter(url)
            request = requests.Request("GET", url).prepare()
            self._connections = adapter.get_connection_with_tls_context(request, self.verify, cert=self.cert)
            adapter.cert_verify(self._connections, url, self.verify, self.cert)
        return self._connections

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None
        super().close()

    def fetch(self, path: str, headers: Mapping[str, str]) -> Any:
        """GET and decode.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        return self._decode(self._get(self._url("{0}", path), headers=dict(headers)))  # type: ignore[attr-defined]

    def list_parts(self, path: str, filters: Mapping[str, Any], decoder: msgspec.json.Decoder[Any]) -> Listing:
        """GET a listing, of which the decoder takes what is used.

        Args:
            filters: Docker's own.

        Raises:
            docker.errors.APIError: any status but 2xx.
            ValueError: it is no listing.
        """
        params = {"filters": docker.utils.convert_filters(filters)} if filters else None
        response = self._get(self._url(path), params=params)  # type: ignore[attr-defined]
        self._raise_for_status(response)  # type: ignore[attr-defined]
        try:
            return Listing(response.content, decoder)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def submit(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], params: Mapping[str, str] | None = None
    ) -> Any:
        """POST a JSON body and decode the answer.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        response = self._post_json(url, data=dict(body), headers=dict(headers), params=params)  # type: ignore[attr-defined]
        return self._decode(response)

    def open_lines(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str], silence: float
    ) -> requests.Response:
        """POST, for an answer that comes in lines.

        Args:
            silence: seconds between two lines; ``timeout`` bounds the wait for the answer to begin.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        response: requests.Response = self._post(  # type: ignore[attr-defined]
            url, params=dict(params), headers=dict(headers), stream=True
        )
        self._raise_for_status(response)  # type: ignore[attr-defined]
        LongAnswer(response).wait_at_most(silence)
        return response

    def open_events(self, filters: Mapping[str, list[str]], timeouts: tuple[float, float]) -> requests.Response:
        """GET ``/events``, to be read line by line.

        Args:
            filters: Docker's own.
            timeouts: seconds to connect, and between two bytes.
        """
        url = self._url("/events")  # type: ignore[attr-defined]
        response: requests.Response = self._get(  # type: ignore[attr-defined]
            url, params={"filters": json.dumps(filters)}, stream=True, timeout=timeouts
        )
        self._raise_for_status(response)  # type: ignore[attr-defined]
        return response

    def open_log(self, path: str, params: Mapping[str, str], timeouts: tuple[float, float]) -> LongAnswer:
        """GET a log.

        Args:
            timeouts: seconds to connect, and until it begins.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        response: requests.Response = self._get(  # type: ignore[attr-defined]
            url, params=dict(params), stream=True, timeout=timeouts
        )
        self._raise_for_status(response)  # type: ignore[attr-defined]
        return LongAnswer(response)

    def dial(self) -> HTTPConnection:
        """A connection of its own: its socket is known before the first answer comes, so another thread can end it."""
        url = self._url("{0}", "/_ping")  # type: ignore[attr-defined]
        connection = cast(HTTPConnection, self._pool(url)._new_conn())
        connection.timeout = self.timeout
        connection.connect()
        return connection

    def get_on(
        self, connection: HTTPConnection, path: str, params: Mapping[str, str], silence: float | None
    ) -> LongAnswer:
        """GET, on a connection that was dialled.

        Args:
            silence: seconds until the answer begins, and between two of its bytes; None: no bound.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        request = requests.Request("GET", url, params=dict(params)).prepare()
        connection.timeout = silence  # which urllib3 gives to the socket, again when it waits for the answer
        connection.sock.settimeout(silence)
        connection.request("GET", request.path_url, preload_content=False)
        response = self.get_adapter(url).build_response(request, connection.getresponse())  # type: ignore[attr-defined]
        self._raise_for_status(response)  # type: ignore[attr-defined]
        return LongAnswer(response)

    def _decode(self, response: requests.Response) -> Any:
        return self._result(response, json=True)


def _target(url: str, params: Mapping[str, Any] | None) -> str:
    """The path and query of a request; a parameter that is None is left out."""
    path = urlsplit(url).path
    given = {name: value for name, value in (params or {}).items() if value is not None}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _response(answer: BaseHTTPResponse, url: str, asked_with: Mapping[str, str]) -> requests.Response:
    """An answer that was read, as the SDK knows it."""
    response = requests.Response()
    response.request = requests.PreparedRequest()
    response.request.headers = requests.structures.CaseInsensitiveDict(asked_with)  # what is not to be quoted from it
    response.status_code, response.reason, response.url = answer.status, answer.reason or "", url
    response.headers = requests.structures.CaseInsensitiveDict(answer.headers)
    response.encoding = "utf-8"
    response._content = answer.data
    return response


class LongAnswer:
    """An answer that is read while it comes; a context that closes it."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        # It is none where the engine closes the connection with this answer.
        self._socket = getattr(response.raw.connection, "sock", None)

    def __enter__(self) -> LongAnswer:
        return self

    def __exit__(self, *raised: object) -> None:
        self._response.close()

    def chunks(self) -> Iterator[bytes]:
        """Its body, in pieces as they come.

        Raises:
            urllib3.exceptions.HTTPError
        """
        raw = self._response.raw
        body = getattr(raw._fp, "fp", None)
        # Docker sends a chunk for each message, and urllib3 takes many times longer for each than to find its end here.
        if raw.chunked and hasattr(body, "read1"):  # over ssh it has not
            return _unchunked(body)
        return iter(raw.stream(CHUNK))

    def wait_at_most(self, seconds: float | None) -> None:
        """Bound the wait for the next byte; None: wait for ever."""
        if self._socket is not None:
            self._socket.settimeout(seconds)


def _unchunked(body: Any) -> Iterator[bytes]:
    coding = Chunked()
    while not coding.done:
        data = body.read1(CHUNK)
        if not data:
            raise ProtocolError("the answer was cut off")
        payload = coding.event_stream(data)
        if payload:
            yield payload
