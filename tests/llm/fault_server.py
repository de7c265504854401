"""A fake endpoint for chats and text vectors on the loopback interface: to count requests and inject faults.

Real models are tested in test_local_model.py; no real model answers wrongly on demand.
"""

import asyncio
import hashlib
import json
import threading
from collections import Counter

GOOD = json.dumps({"summarization": "People who enjoy quiet evenings.", "reasoning": "It says so."})


def reply(text=GOOD, *, finish="stop", message=None, prompt_tokens=100, completion_tokens=20):
    """(status, headers, body) of an ordinary answer."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": message or {"role": "assistant", "content": text},
    }
    body = {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }
    return 200, {}, json.dumps(body).encode()


def failure(status, message="no", headers=None, **error):
    """(status, headers, body) of an error as OpenAI words it."""
    return status, headers or {}, json.dumps({"error": {"message": message, **error}}).encode()


def vector_of(text, size=4):
    """The numbers that ``embedded`` answers a text with."""
    return [float(byte) - 100 for byte in hashlib.sha256(text.encode()).digest()[:size]]


def embedded(body, **changes):
    """(status, headers, body) of an ordinary answer to a request for text vectors, in reverse order."""
    data = [
        {"object": "embedding", "index": place, "embedding": vector_of(text)}
        for place, text in enumerate(body["input"])
    ]
    reply = {"object": "list", "data": data[::-1], "usage": {"prompt_tokens": 10 * len(data)}, **changes}
    return 200, {}, json.dumps(reply).encode()


RESET, HANG = "reset", "hang"


class FaultServer:
    """Answers every POST by ``script(number, body)`` → (status, headers, bytes), RESET or HANG.

    ``latency`` seconds pass before each answer. ``answered`` counts answers per prompt, or tuple of texts,
    that were written out in full, ``bodies`` keeps requests where ``keep`` is set, ``most`` is the most
    requests at once.
    """

    def __init__(self, script=None, latency=0.0, keep=True):
        self.script = script or (lambda number, body: reply())
        self.latency = latency
        self.keep = keep
        self.requests = 0
        self.at_once = 0
        self.most = 0
        self.answered = Counter()
        self.received = Counter()
        self.bodies = []
        self.headers = []

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self, ready):
        asyncio.run(self._serve(ready))

    async def _serve(self, ready):
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._connections = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()

    async def _connection(self, reader, writer):
        self._connections.add(asyncio.current_task())
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(asyncio.current_task())
            writer.close()

    async def _exchange(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
        number = self.requests
        self.requests += 1
        prompt = body["messages"][-1]["content"] if "messages" in body else tuple(body["input"])
        self.received[prompt] += 1
        if self.keep:
            self.bodies.append(body)
            self.headers.append(headers)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            outcome = self.script(number, body)
            if outcome == HANG:
                await asyncio.sleep(60)
            if outcome == RESET:
                # An abort with unread data in the kernel's buffers sends RST, not FIN.
                writer.transport.abort()
                return False
            status, extra, content = outcome
            fields = {"content-type": "application/json", "content-length": str(len(content)), **extra}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            if status == 200:
                self.answered[prompt] += 1
            writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + content)
            await writer.drain()
            return True
        finally:
            self.at_once -= 1
