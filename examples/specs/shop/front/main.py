"""The shop's front: takes orders and says how many were packed."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shoplib import store

VERSION = os.environ["VERSION"]
TASK = os.environ["TW_TASK"]
cache = bytearray()


def fill_cache(mebibytes: int) -> dict:
    """Keeps so much in memory: a stand-in for a cache that follows demand."""
    global cache
    cache = bytearray(b"x") * (mebibytes << 20)
    return {"cache_mebibytes": mebibytes}


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(lambda: {"redis": store.call("PING")})
        elif self.path == "/order":
            self.answer(lambda: {"order": store.call("LPUSH", store.ORDERS, TASK), "version": VERSION, "task": TASK})
        elif self.path == "/packed":
            self.answer(lambda: {"packed": int(store.call("GET", store.PACKED) or 0), "version": VERSION})
        elif self.path.startswith("/cache/"):
            self.answer(lambda: fill_cache(int(self.path.removeprefix("/cache/"))))
        else:
            self.send_error(404)

    def answer(self, work) -> None:
        try:
            status, body = 200, work()
        except store.Unavailable as cause:
            status, body = 503, {"error": str(cause)}
        text = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, form: str, *values) -> None:
        if self.path != "/healthz":
            print(form % values, flush=True)


server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Shop)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"{TASK}: front version {VERSION} listens on {sys.argv[1]}", flush=True)
server.serve_forever()
server.server_close()
