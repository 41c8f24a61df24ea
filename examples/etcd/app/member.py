"""One member of etcd: asks the controller how to join, runs etcd, and says that it is there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

INDEX = int(os.environ["TW_INDEX"])
NAME = f"m{INDEX}"
PEER = f"http://127.0.0.1:{os.environ['PORT_PEER']}"
CLIENT = f"http://127.0.0.1:{os.environ['PORT_CLIENT']}"
DATA = "/data/etcd"


def control(path: str, body: dict) -> dict | None:
    """What the controller answers; none where it does not."""
    try:
        with open("/run/twill/endpoints.json") as file:
            addresses = json.load(file).get("etcd-control", {}).get("control", [])
        request = urllib.request.Request(
            f"http://{addresses[0]}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=3) as reply:
            return json.load(reply)
    except (OSError, ValueError, IndexError) as cause:
        print(f"the controller does not answer: {cause}", file=sys.stderr)
        return None


def me() -> dict:
    has_data = os.path.isdir(f"{DATA}/member")
    return {"index": INDEX, "peer": PEER, "client": CLIENT, "has_data": has_data}


def join() -> dict:
    while True:
        answer = control("/join", me())
        if answer and answer.get("forget"):
            shutil.rmtree(DATA, ignore_errors=True)
        elif answer and "cluster" in answer:
            return answer
        time.sleep(0.5)


def main() -> int:
    how = join()
    print(f"joins a cluster that is {how['state']}: {how['cluster']}", flush=True)
    etcd = subprocess.Popen(
        [
            *("etcd", "--name", NAME, "--data-dir", DATA),
            *("--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER),
            *("--listen-client-urls", CLIENT, "--advertise-client-urls", CLIENT),
            *("--initial-cluster", how["cluster"], "--initial-cluster-state", how["state"]),
            *("--initial-cluster-token", "twill", "--heartbeat-interval", "100", "--election-timeout", "1000"),
        ]
    )
    signal.signal(signal.SIGTERM, lambda *_: etcd.terminate())
    while etcd.poll() is None:
        control("/alive", me())
        time.sleep(1)
    return etcd.returncode


if __name__ == "__main__":
    sys.exit(main())
