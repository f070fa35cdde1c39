"""The webhook called in this very process, through the whole of its HTTP side."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

import httpx
from fastapi import FastAPI


class Client:
    """Sends requests to *app*, one after the other."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        self._runner.close()

    async def _send(self, method: str, url: str, **content: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hooks") as client:
            return await client.request(method, url, **content)

    def get(self, url: str) -> httpx.Response:
        """GET *url*."""
        return self._runner.run(self._send("GET", url))

    def post(self, url: str, *, json: Any = None, content: bytes | None = None) -> httpx.Response:
        """POST *json* or *content* to *url*."""
        body = {"json": json} if content is None else {"content": content}
        return self._runner.run(self._send("POST", url, **body))

    def post_stream(self, url: str, chunks: Iterable[bytes]) -> httpx.Response:
        """POST *chunks* whose whole length is not announced."""

        async def stream() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return self._runner.run(self._send("POST", url, content=stream()))
