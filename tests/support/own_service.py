"""A service of one's own: an application with some of FastAPI's features, and run() of server.py.

Its /helloJson greets like server.py, but every other call takes 0.5 s and the others 2 s. It prints
how long each took.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from server import Greeting, Person, run

app = FastAPI()
router = APIRouter(prefix="/items")
delays = itertools.cycle([0.5, 2.0])  # seconds


def user(request: Request) -> str:
    return request.headers.get("x-user", "nobody")


@router.post("/{number}")
async def add_item(
    number: int, background: BackgroundTasks, user: Annotated[str, Depends(user)]
) -> dict[str, object]:
    background.add_task(print, "added", number, flush=True)
    return {"number": number, "user": user}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in ("one ", "two ", "three"):
            yield part
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


@app.post("/unread")
async def unread(request: Request) -> int:
    """Read the body only after 2 s."""
    print("unread", flush=True)
    await asyncio.sleep(2)
    return len(await request.body())


@app.get("/health")
async def health() -> Greeting:
    return Greeting(message="I am healthy")


@app.post("/helloJson")
async def hello_json(person: Person) -> Greeting:
    start = time.perf_counter()
    await asyncio.sleep(next(delays))
    print("took", time.perf_counter() - start, flush=True)
    return Greeting(message=f"Hello {person.name} {person.surname}")


app.include_router(router)

if __name__ == "__main__":
    run(app)
