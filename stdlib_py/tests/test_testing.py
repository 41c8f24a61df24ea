"""Helpers for tests of specs and for policies, under plain Python."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tw import GiB, Job, Resources
from tw.policy import folder_policy, forbid, policy, require, review, rules, warn
from tw.testing import Jobs, LoadError, cases, load, raises, skip

JOBS = Jobs("config.tw", [Job(name="web", command="a"), Job(name="db", namespace="data", command="b")])


@cases(1, 2)
def test_cases_of_one_argument(number: int) -> None:
    assert number in (1, 2)


@cases(("a", 1), ("b", 2))
def test_cases_of_two_arguments(text: str, number: int) -> None:
    assert "ab".index(text) + 1 == number


def test_a_case_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(TypeError, match="takes 2 arguments, and one of its cases has 3"):

        @cases((1, 2, 3))
        def two(a: int, b: int) -> None: ...


def test_jobs_are_found_by_name() -> None:
    assert JOBS["web"] is JOBS[0]
    assert JOBS["data/db"].name == "db"
    assert "web" in JOBS and "api" not in JOBS
    assert JOBS.names == ("web", "db")
    with pytest.raises(LookupError, match="no job 'wep'; did you mean 'web'"):
        JOBS["wep"]


def test_raises_wants_the_exception_and_its_text() -> None:
    with raises(ValueError, match="bad") as caught:
        raise ValueError("a bad value")
    assert str(caught.value) == "a bad value"
    with pytest.raises(AssertionError, match="nothing raised ValueError"):
        with raises(ValueError):
            pass
    with pytest.raises(AssertionError, match="does not say 'good'"):
        with raises(ValueError, match="good"):
            raise ValueError("a bad value")


def test_skip_is_that_of_pytest() -> None:
    with pytest.raises(pytest.skip.Exception):
        skip("not yet")


def test_load_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TW", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LoadError, match="needs the program `tw` on PATH"):
        load("config.tw")


def test_review_collects_what_a_policy_finds() -> None:
    @policy(owner="platform")
    def modest(job: Job) -> None:
        require(job.owner, "name an owner")
        forbid(job.resources.memory > GiB, "too much")
        warn(job.replicas == 1, "one alone", field="replicas")

    small = Job(name="a", command="x", owner="team", replicas=2)
    assert review(modest, small) == ()
    big = Job(name="a", command="x", resources=Resources(memory=2 * GiB))
    found = [(one.level, one.message, one.field) for one in review(modest, big)]
    assert found == [
        ("require", "name an owner", None),
        ("forbid", "too much", None),
        ("warn", "one alone", "replicas"),
    ]
    assert (rules()[-1].name, rules()[-1].owner) == ("modest", "platform")


def test_a_policy_over_a_folder_takes_all_of_its_jobs() -> None:
    @folder_policy(owner="web")
    def few(jobs: Sequence[Job]) -> None:
        require(len(jobs) < 2, f"{len(jobs)} jobs", job=jobs[-1])

    one, other = Job(name="a", command="x"), Job(name="b", command="x")
    assert review(few, [one]) == ()
    assert [(found.message, found.job) for found in review(few, [one, other])] == [("2 jobs", other)]
    assert rules()[-1].is_of_folder
    with pytest.raises(TypeError, match="names its owner"):
        folder_policy(owner="")


def test_policies_name_an_owner_and_speak_only_when_asked() -> None:
    with pytest.raises(TypeError, match="names its owner"):
        policy(owner=" ")
    with pytest.raises(RuntimeError, match="in a policy"):
        require(False, "nobody listens")
