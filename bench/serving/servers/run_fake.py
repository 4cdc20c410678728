"""Answers every text with one label after a wait: measures the generator, and stands in for a server in tests."""

from __future__ import annotations

import argparse
import asyncio
import json

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "


class Fake(asyncio.Protocol):
    """Answers requests of one connection, one at a time."""

    wait = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if separator and len(body) >= length:
            self.received = b""
            asyncio.get_running_loop().call_later(self.wait, self.answer, body)

    def answer(self, body: bytes) -> None:
        given = json.loads(body)["input"] if body else []
        count = 1 if isinstance(given, str) else len(given)
        data = [{"index": i, "label": "fake", "probs": [1.0], "num_classes": 1} for i in range(count)]
        answer = json.dumps({"data": data})
        self.transport.write(f"{HEAD}{len(answer)}\r\n\r\n{answer}".encode())


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Fake, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, default=0.0)
    options = parser.parse_args()
    Fake.wait = options.wait_ms / 1000
    asyncio.run(serve(options.port))


if __name__ == "__main__":
    main()
