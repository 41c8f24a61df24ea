"""The shop's orders in redis, wherever redis runs now."""

import json
import socket

ENDPOINTS = "/run/twill/endpoints.json"
ORDERS = "orders"
PACKED = "packed"


class Unavailable(Exception):
    """Redis cannot be reached."""


def redis_address() -> tuple[str, int]:
    """Where redis listens: Twill keeps the file current while the task runs."""
    with open(ENDPOINTS, encoding="utf-8") as file:
        addresses = json.load(file).get("redis", {}).get("main", [])
    if not addresses:
        raise Unavailable("no redis is registered")
    host, _, port = addresses[0].rpartition(":")
    return host, int(port)


def call(*words: str, timeout: float = 2.0):
    """One redis command over a connection of its own; returns what redis answers."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    try:
        with socket.create_connection(redis_address(), timeout=timeout) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return _read(answer)
    except OSError as cause:
        raise Unavailable(str(cause)) from cause


def _read(answer):
    line = answer.readline()
    if not line:
        raise Unavailable("redis closed the connection")
    kind, rest = line[:1], line[1:].strip()
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        raise Unavailable(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        length = int(rest)
        return None if length < 0 else answer.read(length + 2)[:-2].decode()
    if kind == b"*":
        count = int(rest)
        return None if count < 0 else [_read(answer) for _ in range(count)]
    raise Unavailable(f"redis answered {line!r}")
