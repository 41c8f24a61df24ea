"""The five jobs, in pystachio."""

from pystachio_shared import MiB, service

jobs = [service(f"web-{i}", replicas=i + 1, memory=(64 + i) * MiB) for i in range(5)]
