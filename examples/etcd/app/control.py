"""Forms the cluster, and decides which member may be stopped: followers first, the leader last, one at a time, and only
while all of them are well."""

import json
import os
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIZE = int(os.environ["MEMBERS"])
FORMED = "/state/formed.json"

lock = threading.Lock()
members: dict[int, dict] = {}


def say(words: str) -> None:
    print(words, flush=True)


def call(client: str, path: str, body: dict) -> dict | None:
    request = urllib.request.Request(
        client + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as reply:
            return json.load(reply)
    except (OSError, ValueError):
        return None


def statuses() -> dict[int, dict]:
    """The members that answer and know a leader."""
    found = {}
    for index, member in members.items():
        status = call(member["client"], "/v3/maintenance/status", {})
        if status and int(status.get("leader", 0)):
            found[index] = status
    return found


def formed() -> dict[int, str]:
    """The peers that the cluster began with; empty before that."""
    try:
        with open(FORMED) as file:
            return {int(index): peer for index, peer in json.load(file).items()}
    except FileNotFoundError:
        return {}


def form() -> None:
    """Decides once, for good, who the first members are."""
    recent = {i: m for i, m in members.items() if time.monotonic() - m["at"] < 5 and not m["has_data"]}
    if len(recent) < SIZE:
        return
    with open(FORMED + ".draft", "w") as file:
        json.dump({index: member["peer"] for index, member in recent.items()}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(FORMED + ".draft", FORMED)
    say(f"the cluster begins with {sorted(recent)}")


def join(me: dict) -> dict:
    index, name = me["index"], f"m{me['index']}"
    members[index] = {**me, "at": time.monotonic()}
    if not formed():
        form()
    first = formed()
    if not first:
        return {"wait": f"{len(members)} of {SIZE} members are here"}
    alive = [i for i in statuses() if i != index]
    if me["has_data"] and not alive:
        # What is on disk says who the others are.
        return {"cluster": f"{name}={me['peer']}", "state": "existing"}
    if first.get(index) == me["peer"] and not me["has_data"]:
        cluster = ",".join(f"m{i}={peer}" for i, peer in sorted(first.items()))
        return {"cluster": cluster, "state": "new"}
    if len(alive) < SIZE // 2 + 1:
        return {"wait": f"{len(alive)} members answer, and changes need {SIZE // 2 + 1}"}
    return change(me, members[alive[0]]["client"])


def change(me: dict, client: str) -> dict:
    """Makes a member part of the running cluster, in place of the one of its name."""
    name, peer = f"m{me['index']}", me["peer"]
    listed = call(client, "/v3/cluster/member/list", {})
    if listed is None:
        return {"wait": "the members do not say who they are"}
    old = [one for one in listed["members"] if one.get("name") == name]
    new = [one for one in listed["members"] if peer in one.get("peerURLs", []) and not one.get("name")]
    if me["has_data"] and not old:
        say(f"{name} was removed; it begins anew")
        return {"forget": True}
    if me["has_data"] and peer not in old[0]["peerURLs"]:
        say(f"{name} listens at {peer} now")
        done = call(client, "/v3/cluster/member/update", {"ID": old[0]["ID"], "peerURLs": [peer]})
    elif me["has_data"]:
        done = listed
    elif new:
        done = listed
    else:
        for one in old:
            say(f"{name} has lost its data; it is removed and added again")
            if call(client, "/v3/cluster/member/remove", {"ID": one["ID"]}) is None:
                return {"wait": "the old member could not be removed"}
        done = call(client, "/v3/cluster/member/add", {"peerURLs": [peer]})
    listed = call(client, "/v3/cluster/member/list", {}) if done else None
    if listed is None:
        return {"wait": "the change was not taken"}
    peers = [(one.get("name") or name, url) for one in listed["members"] for url in one["peerURLs"]]
    return {"cluster": ",".join(f"{who}={url}" for who, url in peers), "state": "existing"}


def approve(question: dict) -> dict:
    """One operation, on a follower if there is one, while every member is well."""
    found = statuses()
    well = [task for task in question["tasks"] if task["healthy"] and not task["leaves"]]
    operations = question["operations"]
    if len(found) < SIZE or len(well) < SIZE or not operations:
        return {"approve": []}

    def is_leader(operation: dict) -> bool:
        status = found.get(operation["index"])
        return status is not None and status["leader"] == status["header"]["member_id"]

    first = min(operations, key=lambda one: (is_leader(one), one["index"]))
    say(f"approves {first['id']}{', the leader' if is_leader(first) else ''}")
    return {"approve": [first["id"]]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing of every request."""

    def do_GET(self) -> None:
        self.reply({"members": sorted(members)})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with lock:
            if self.path == "/join":
                self.reply(join(body))
            elif self.path == "/alive":
                members[body["index"]] = {**body, "at": time.monotonic()}
                self.reply({})
            else:
                self.reply(approve(body))

    def reply(self, value: dict) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    port = int(os.environ["PORT_CONTROL"])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
