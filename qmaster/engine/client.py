"""The SDK's client, with the two calls it cannot make: a request with this call's own headers, and only those.

The SDK's own methods take registry credentials from a shared configuration or from ``~/.docker/config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import docker
import requests


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
        socket = getattr(response.raw.connection, "sock", None)
        if socket is not None:  # it is none where the engine closes the connection with this answer
            socket.settimeout(silence)
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

    def _decode(self, response: requests.Response) -> Any:
        return self._result(response, json=True)  # type: ignore[attr-defined]
