"""Composition: `replace` and mixins."""

from __future__ import annotations

import pytest

from tw import HttpCheck, Job, MiB, Mixin, Resources, Rollout, SpecError, TcpCheck
from tw._runtime import encode

WEB = Job(
    name="web",
    command="server",
    env={"MODE": "live", "PORT": "80"},
    resources=Resources(memory=128 * MiB),
    ports=["http"],
    health=[HttpCheck(port="http")],
)


def test_objects_merge_dicts_merge_and_lists_are_appended_to() -> None:
    observed = Mixin(
        env={"LOG": "json", "MODE": "test"},
        resources=Resources(cpu=2),
        ports=["metrics"],
        health=[TcpCheck(port="metrics")],
        replicas=3,
    )
    web = WEB.mix(observed)
    assert dict(web.env) == {"MODE": "test", "PORT": "80", "LOG": "json"}
    assert web.resources == Resources(cpu=2, memory=128 * MiB)
    assert web.ports == ("http", "metrics")
    assert len(web.health) == 2
    assert web.replicas == 3
    assert (WEB.replicas, len(WEB.health), dict(WEB.env)) == (1, 1, {"MODE": "live", "PORT": "80"})


def test_the_later_mixin_wins_and_order_is_kept() -> None:
    first, second = Mixin(owner="a", labels={"x": "1"}), Mixin(owner="b", labels={"y": "2"})
    both = WEB.mix(first, second)
    assert both.owner == "b"
    assert dict(both.labels) == {"x": "1", "y": "2"}
    assert both == WEB.mix(first).mix(second)


def test_what_the_job_left_out_is_the_mixins_alone() -> None:
    rollout = Rollout(stages=[1, "100%"], max_unavailable=2)
    assert WEB.mix(Mixin(rollout=rollout)).rollout == rollout
    assert encode(WEB.mix(Mixin(rollout=rollout)))["fields"].keys() == {*WEB._written(), "rollout"}


def test_no_mixin_changes_nothing() -> None:
    assert WEB.mix() == WEB
    assert WEB.mix(Mixin()) == WEB


def test_a_mixin_has_the_fields_of_a_job() -> None:
    with pytest.raises(SpecError) as caught:
        Mixin(replica=3)  # type: ignore[call-arg]
    assert "did you mean `replicas`?" in str(caught.value)


def test_only_mixins_can_be_mixed_in() -> None:
    with pytest.raises(SpecError) as caught:
        WEB.mix(Resources(cpu=1))  # type: ignore[arg-type]
    assert caught.value.code == "spec.wrong_type"
