"""The rival: an empty FastAPI route that decodes its body with orjson and says nothing."""

import orjson
from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.post("/empty")
async def empty(request: Request) -> Response:
    """Decode the body."""
    orjson.loads(await request.body())
    return Response(b"{}", media_type="application/json")
