"""Rules over the jobs of all specs below this folder.

`tw check` fails where one stands against a job; `tw plan` and `tw apply` refuse it. A
folder may have a POLICY.py of its own, which adds to this one and takes nothing away.
"""

from tw import Job
from tw.policy import policy, require, warn


@policy(owner="platform")
def has_owner(job: Job) -> None:
    """Somebody answers for every job."""
    require(job.owner, "every job names its owner")


@policy(owner="platform")
def no_root(job: Job) -> None:
    """Tasks that run as root can do more harm when they are broken into."""
    warn(job.user == "root", "tasks should not run as root")


# More ideas, to be taken up by removing the marks (`forbid` is imported like `require`):
#
# @policy(owner="platform")
# def bounded(job: Job) -> None:
#     forbid(job.resources.memory > 8 * GiB, "ask before a task takes more than 8 GiB")
#
# @policy(owner="platform")
# def checked(job: Job) -> None:
#     require(job.kind != "service" or job.health or not job.ports, "a service has a check")
