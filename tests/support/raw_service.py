"""An HTTP/1.1 service that sends the bytes that a request contains, in hexadecimal digits.

A number behind them says how often the last byte is repeated.
"""

import asyncio
import contextlib
import os
import re


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            print("request", flush=True)
            response = b"HTTP/1.1 204 No Content\r\n\r\n"  # to a warm-up call
            if match := re.fullmatch(rb"([0-9a-f]+) (\d+)", body):
                response = bytes.fromhex(match[1].decode())
                response += response[-1:] * int(match[2])
            writer.write(response)
            await writer.drain()


async def main() -> None:
    port = int(os.environ["KAR_APP_PORT"])
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("Running on", port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
