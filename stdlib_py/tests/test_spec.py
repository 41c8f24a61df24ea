"""The spec classes under plain Python."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator
from typing import Any

import pytest

import tw
from tw import GiB, HttpCheck, Job, MiB, Package, Resources, SpecError, export, exported
from tw import _export, _schema
from tw._runtime import Spec, encode


@pytest.fixture(autouse=True)
def nothing_exported() -> Iterator[None]:
    _export._exported.clear()
    yield
    _export._exported.clear()


def make(**fields: Any) -> Job:
    return Job(**{"name": "web", "command": "server", **fields})


def test_defaults_can_be_read() -> None:
    job = make()
    assert job.replicas == 1
    assert job.resources.memory == 64 * MiB
    assert dict(job.env) == {}


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        make(commnd="x")
    assert caught.value.code == "spec.unknown_field"
    assert caught.value.argument == "commnd"
    assert str(caught.value) == "`Job` has no field `commnd` (did you mean `command`?)"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        Job(command="server")  # type: ignore[call-arg]
    assert (caught.value.code, caught.value.message) == ("spec.missing_field", "`Job` needs `name`")


def test_fields_are_keywords() -> None:
    with pytest.raises(SpecError, match="keyword arguments only"):
        Job("web")  # type: ignore[call-arg]


def test_an_unknown_attribute_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean `replicas`"):
        make().replica


def test_objects_do_not_change() -> None:
    job = make()
    with pytest.raises(SpecError, match=r"\.replace\(replicas=…\)"):
        job.replicas = 3  # type: ignore[misc]
    with pytest.raises(SpecError):
        del job.name
    assert job.replicas == 1


def test_lists_and_dicts_are_taken_as_they_were() -> None:
    ports, env = ["http"], {"A": "1"}
    job = make(ports=ports, env=env)
    ports.append("admin")
    env["B"] = "2"
    assert list(job.ports) == ["http"]
    assert dict(job.env) == {"A": "1"}
    with pytest.raises(TypeError):
        job.env["C"] = "3"  # type: ignore[index]


def test_replace_derives_a_new_object() -> None:
    job = make(replicas=2)
    more = job.replace(replicas=5)
    assert (job.replicas, more.replicas, more.name) == (2, 5, "web")
    with pytest.raises(SpecError, match="did you mean `replicas`"):
        job.replace(replica=5)  # type: ignore[call-arg]


def test_equality_is_by_value() -> None:
    assert make(replicas=1) == make()
    assert make(env={"A": "1"}) == make(env={"A": "1"})
    assert make() != make(replicas=2)
    assert make() != "web"
    assert hash(make()) == hash(make())


def test_the_repr_is_the_expression() -> None:
    job = make(resources=Resources(cpu=0.5), ports=["http"], env={"A": "1"})
    assert repr(job) == (
        "Job(name='web', command='server', resources=Resources(cpu=0.5), ports=['http'], env={'A': '1'})"
    )


def test_copies_are_the_object_itself() -> None:
    job = make()
    assert copy.deepcopy(job) is job
    assert copy.copy(job) is job


def test_spec_classes_cannot_be_extended() -> None:
    with pytest.raises(SpecError, match="write a function that returns a Job"):
        type("MyJob", (Job,), {})


def test_packages_are_folders() -> None:
    assert Package.folder("app") == Package(path="app")


def test_units() -> None:
    assert (tw.KiB, tw.MiB, tw.GiB, tw.TiB) == (2**10, 2**20, 2**30, 2**40)
    assert (tw.MILLISECOND, tw.SECOND, tw.MINUTE, tw.HOUR, tw.DAY) == (0.001, 1, 60, 3600, 86400)
    assert 2 * GiB == 2147483648


class Kind(enum.Enum):
    BATCH = "batch"


def test_author_json_holds_what_was_written_and_no_defaults() -> None:
    job = make(
        kind=Kind.BATCH,
        ports=("http",),
        env={"ä": "→"},
        resources=Resources(cpu=2),
        health=[HttpCheck(port="http")],
    )
    assert encode(job) == {
        "__type__": "Job",
        "fields": {
            "name": "web",
            "command": "server",
            "kind": "batch",
            "ports": ["http"],
            "env": {"ä": "→"},
            "resources": {"__type__": "Resources", "fields": {"cpu": 2}},
            "health": [{"__type__": "HttpCheck", "fields": {"port": "http"}}],
        },
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a"}, "`Job.env.KEY` is a set"),
        (len, "is a builtin_function_or_method"),
        (b"x", "is a bytes"),
        (2**63, "is beyond 64 bits"),
        (float("nan"), "is nan"),
        (object(), "is a object"),
        ("\ud800", "holds half a character"),
        ([1, [{"x": {1, 2}}]], r"`Job.env.KEY\[1\]\[0\].x` is a set"),
        ({1: 2}, "has the key 1, which is no string"),
        ({"__type__": "Job"}, "is kept for Twill"),
    ],
)
def test_values_that_json_cannot_hold_are_errors_with_their_path(value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        encode(make(env={"KEY": value}))
    assert caught.value.code == "spec.wrong_type"
    assert caught.value.argument == "env"


def test_the_largest_numbers_pass() -> None:
    encoded = encode(make(replicas=2**63 - 1))
    assert encoded["fields"]["replicas"] == 2**63 - 1


def test_export_takes_jobs_and_lists_of_them() -> None:
    one, two, three = (make(name=name) for name in ("one", "two", "three"))
    export(one)
    export([two], (job for job in [three]))
    assert exported() == (one, two, three)


@pytest.mark.parametrize("value", ["web", {"name": "web"}, Resources(), [Resources()], None, 1])
def test_export_refuses_anything_else(value: Any) -> None:
    with pytest.raises(SpecError, match="export takes jobs"):
        export(value)


def test_every_class_of_the_language_is_a_spec() -> None:
    classes = [getattr(tw, name) for name in _schema.__all__]
    assert Job in classes
    assert all(issubclass(cls, Spec) for cls in classes)
