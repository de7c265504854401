"""Latency of ordinary lists while other clients are slow: idle connections, half-sent bodies and long texts.

rlmrec serve -w W --run RUN --port 8000 &
python tests/fuzz/slow_clients.py 8000 USER
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

IDLE, HALF, TEXTS, LISTS = 1000, 100, 16, 200


def opened(port: int, first: bytes) -> socket.socket:
    """Return a connection on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(first)
    return connection


def ask_for_lists(port: int, user: str) -> tuple[Counter[int], list[float]]:
    """Ask for lists one after the other; return their statuses and milliseconds, best first."""
    statuses, taken = Counter[int](), []
    for _ in range(LISTS):
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v1/users/{user}/recommendations", timeout=30
            ) as answer:
                answer.read()
                statuses[answer.status] += 1
        except urllib.error.HTTPError as error:
            statuses[error.code] += 1
        taken.append(1000 * (time.perf_counter() - started))
        time.sleep(0.01)
    return statuses, sorted(taken)


def main() -> None:
    """Measure alone, then beside each kind of slow client, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("user")
    options = parser.parse_args()
    head = b"POST /v1/cold/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    text = b'{"text": "' + b"noir film " * 20_000 + b'"}'
    kinds = {
        "alone": (0, b""),
        "idle connections": (IDLE, b""),
        "half-sent heads": (IDLE, b"GET / HTTP/1.1\r\nHost: loc"),
        "half-sent bodies": (HALF, head + b'Content-Length: 1000\r\n\r\n{"text"'),
        "long texts": (TEXTS, head + f"Content-Length: {len(text)}\r\n\r\n".encode() + text),
    }
    for name, (count, first) in kinds.items():
        connections = [opened(options.port, first) for _ in range(count)]
        done = threading.Event()

        def repeat(first: bytes = first, done: threading.Event = done) -> None:  # long texts, again and again
            while not done.wait(0.2):
                with contextlib.suppress(OSError), opened(options.port, first) as connection:
                    connection.recv(1000)

        senders = [threading.Thread(target=repeat) for _ in range(TEXTS if name == "long texts" else 0)]
        for sender in senders:
            sender.start()
        statuses, taken = ask_for_lists(options.port, options.user)
        done.set()
        for sender in senders:
            sender.join()
        for connection in connections:
            connection.close()
        print(
            f"{count} {name}: {dict(statuses)}, median {statistics.median(taken):.1f} ms, "
            f"p99 {taken[int(0.99 * len(taken))]:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
