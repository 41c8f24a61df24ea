"""What the shop's own services have in common."""

from tw import SECOND, Job, Limits, Package, Resources


def python_service(name: str, package: Package, replicas: int, memory: int) -> Job:
    """A service in Python that uses redis and the shop's library."""
    return Job(
        name=name,
        packages=[package, Package.folder("shoplib")],
        command=["python3", "main.py"],
        env={"PYTHONPATH": "/packages"},
        replicas=replicas,
        resources=Resources(cpu=0.1, memory=memory),
        limits=Limits(
            mode="auto",
            memory_min=memory // 2,
            memory_max=2 * memory,
            cpu_max=1,
            # A day of history is the default; the shop is a demonstration.
            history_min=20 * SECOND,
            window=30 * SECOND,
        ),
        depends_on=["redis"],
        owner="shop-team",
    )
