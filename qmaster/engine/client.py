"""The SDK's client, with the two calls it cannot make: a request with this call's own headers, and only those.

The SDK's own methods take registry credentials from a shared configuration or from ``~/.docker/config.json``.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import requests

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
        """Its body, in pieces as the engine sends them.

        Raises:
            urllib3.exceptions.HTTPError
        """
        return iter(self._response.raw.stream(CHUNK))

    def wait_at_most(self, seconds: float | None) -> None:
        """Bound the wait for the next byte; None: wait for ever."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def abort(self) -> None:
        """End it from another thread: whoever reads it finds it ended."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
