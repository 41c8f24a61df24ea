"""What the services of this repository have in common."""

from collections.abc import Sequence

from tw import Job, MiB, Resources


def service(name: str, command: Sequence[str], *, memory: int = 64 * MiB) -> Job:
    """A service with the defaults of this repository; `.replace(…)` sets whatever else a job has."""
    return Job(
        name=name,
        command=command,
        owner="platform",
        resources=Resources(cpu=0.1, memory=memory),
    )
