"""The shop's worker: packs one order after another."""

import time

from shoplib import store

print("worker: waiting for orders", flush=True)
while True:
    try:
        order = store.call("BRPOP", store.ORDERS, "1", timeout=5.0)
        if order is not None:
            packed = store.call("INCR", store.PACKED)
            print(f"packed order {packed} of {order[1]}", flush=True)
    except store.Unavailable as cause:
        print(f"redis is away: {cause}", flush=True)
        time.sleep(0.5)
