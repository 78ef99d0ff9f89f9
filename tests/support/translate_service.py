"""A service of its own, made from the parts of server.py that the README says to keep."""

import asyncio
from typing import cast

from fastapi import FastAPI
from hypercorn.asyncio import serve
from hypercorn.typing import Framework
from pydantic import BaseModel

from server import ReadRequestBeforeResponse, hypercorn_config, listen

app = FastAPI()


class Text(BaseModel):
    text: str


@app.post("/translate")
async def translate(text: Text) -> Text:
    return Text(text=text.text.upper())


if __name__ == "__main__":
    application = cast(Framework, ReadRequestBeforeResponse(app))
    asyncio.run(serve(application, hypercorn_config(listen())))
