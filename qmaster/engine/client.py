"""The SDK's client, with the two calls it cannot make: a request with this call's own headers, and only those.

The SDK's own methods take registry credentials from a shared configuration or from ``~/.docker/config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import docker
import requests


class Client(docker.APIClient):
    """For one thread alone; ``timeout`` (seconds) bounds the next call's every read."""

    timeout: float  # type: ignore[assignment]  # the stubs say int; requests takes both

    def fetch(self, path: str, headers: Mapping[str, str]) -> Any:
        """GET and decode.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        return self._decode(self._get(self._url("{0}", path), headers=dict(headers)))  # type: ignore[attr-defined]

    def submit(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """POST a JSON body and decode the answer.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        return self._decode(self._post_json(url, data=dict(body), headers=dict(headers)))  # type: ignore[attr-defined]

    def open_lines(self, path: str, params: Mapping[str, str], headers: Mapping[str, str]) -> requests.Response:
        """POST, for an answer that comes in lines.

        Raises:
            docker.errors.APIError: any status but 2xx.
        """
        url = self._url("{0}", path)  # type: ignore[attr-defined]
        response: requests.Response = self._post(  # type: ignore[attr-defined]
            url, params=dict(params), headers=dict(headers), stream=True
        )
        self._raise_for_status(response)  # type: ignore[attr-defined]
        return response

    def _decode(self, response: requests.Response) -> Any:
        return self._result(response, json=True)  # type: ignore[attr-defined]
