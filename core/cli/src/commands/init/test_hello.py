"""Tests of the jobs in this folder: `tw test` runs them, and so does pytest."""

from tw import MiB
from tw.testing import load

jobs = load("config.tw")


def test_hello_is_modest() -> None:
    assert jobs["hello"].resources.memory <= 128 * MiB


def test_every_job_has_an_owner() -> None:
    assert [job.name for job in jobs if not job.owner] == []
