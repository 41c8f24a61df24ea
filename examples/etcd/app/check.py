"""Writes to etcd through whatever happens to it, then looks whether anything that was acknowledged is missing.

Every writer puts keys of its own, and counts a shared counter up by compare-and-swap. Prints how many writes were
acknowledged each second, and at the end what was acknowledged, unknown and lost; ends with 1 when something was lost.
Usage: check.py SECONDS. It writes so long, or until there is a file /tmp/enough.
"""

import base64
import json
import os
import sys
import threading
import time
import urllib.request

WRITERS = 4
end = time.monotonic() + float(sys.argv[1])
lock = threading.Lock()
acknowledged: dict[str, int] = {}
counted: list[int] = []
unknown = 0


def goes_on() -> bool:
    return time.monotonic() < end and not os.path.exists("/tmp/enough")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def text(value: str) -> str:
    return base64.b64decode(value).decode()


def endpoints() -> list[str]:
    with open("/run/twill/endpoints.json") as file:
        return json.load(file).get("etcd", {}).get("client", [])


def call(number: int, path: str, body: dict) -> dict:
    addresses = endpoints()
    if not addresses:
        raise OSError("no member is there")
    address = addresses[number % len(addresses)]
    request = urllib.request.Request(
        f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3) as reply:
        return json.load(reply)


def read(number: int, key: str) -> str | None:
    found = call(number, "/v3/kv/range", {"key": b64(key)}).get("kvs", [])
    return text(found[0]["value"]) if found else None


def count_up(number: int) -> int | None:
    """Counts the counter up by one; none where someone else was faster."""
    old = read(number, "counter") or "0"
    new = str(int(old) + 1)
    is_old = {"key": b64("counter"), "target": "VALUE", "value": b64(old)}
    is_new = {"key": b64("counter"), "target": "CREATE", "create_revision": "0"}
    put = {"request_put": {"key": b64("counter"), "value": b64(new)}}
    reply = call(number, "/v3/kv/txn", {"compare": [is_new if old == "0" else is_old], "success": [put]})
    return int(new) if reply.get("succeeded") else None


def write(writer: int) -> None:
    global unknown
    number = 0
    while goes_on():
        number += 1
        key = f"writer-{writer}/{number}"
        try:
            call(writer + number, "/v3/kv/put", {"key": b64(key), "value": b64(str(number))})
            with lock:
                acknowledged[key] = number
            new = count_up(writer + number)
            if new is not None:
                with lock:
                    counted.append(new)
        except (OSError, ValueError):
            with lock:
                unknown += 1
            time.sleep(0.2)
        time.sleep(0.01)


def again(what: str, look):
    """Reads until it is answered."""
    for attempt in range(60):
        try:
            return look(attempt)
        except (OSError, ValueError) as cause:
            print(f"{what}: {cause}", flush=True)
            time.sleep(1)
    raise SystemExit(f"{what} is not answered")


def main() -> int:
    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    longest, last, then = 0.0, 0, time.monotonic()
    said = then
    while any(writer.is_alive() for writer in writers):
        time.sleep(0.1)
        now = time.monotonic()
        if len(acknowledged) > last:
            last, then = len(acknowledged), now
        if goes_on():
            longest = max(longest, now - then)
        if now >= said + 1:
            said = now
            print(f"{last} acknowledged", flush=True)
    lost = [key for key, value in acknowledged.items() if again(key, lambda n, k=key: read(n, k)) != str(value)]
    counter = int(again("counter", lambda n: read(n, "counter")) or 0)
    twice = len(counted) - len(set(counted))
    wrong = twice or counter < len(counted) or counter < max(counted, default=0)
    print(
        f"acknowledged {len(acknowledged)}, unknown {unknown}, lost {len(lost)}, counter {counter} after {len(counted)} "
        f"counts ({twice} twice), longest silence {longest:.1f} s",
        flush=True,
    )
    return 1 if lost or wrong or not acknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
