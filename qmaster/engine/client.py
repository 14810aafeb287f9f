"""The SDK's client, with the two calls it cannot make: a request with this call's own headers, and only those.

The SDK's own methods take registry credentials from a shared configuration or from ``~/.docker/config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import requests
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ProtocolError

from .chunked import Chunked

CHUNK = 64 * 1024  # bytes at most


class Client(docker.APIClient):
    """For one thread alone; ``timeout`` (seconds) bounds the next call's every read."""

    timeout: float  # type: ignore[assignment]  # the stubs say int; requests takes both

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # REQUESTS_CA_BUNDLE and its like would win over the ca.pem of DOCKER_CERT_PATH.
        self.trust_env = False
        return super().merge_environment_settings(*args, **kwargs)

    def fetch(self, path: str, headers: Mapping[str, str]) -> Any:
        """GET and decode.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        return self._decode(self._get(self._url("{0}", path), headers=dict(headers)))  # type: ignore[attr-defined]

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
        adapter: Any = self.get_adapter(url)
        request = requests.Request("GET", url).prepare()
        pool = adapter.get_connection_with_tls_context(request, self.verify, cert=self.cert)
        adapter.cert_verify(pool, url, self.verify, self.cert)
        connection: HTTPConnection = pool._new_conn()
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
        connection.sock.settimeout(silence)
        connection.request("GET", request.path_url, preload_content=False)
        response = self.get_adapter(url).build_response(request, connection.getresponse())  # type: ignore[attr-defined]
        self._raise_for_status(response)  # type: ignore[attr-defined]
        return LongAnswer(response)

    def _decode(self, response: requests.Response) -> Any:
        return self._result(response, json=True)  # type: ignore[attr-defined]


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
        payload = coding.feed(data)
        if payload:
            yield payload
