"""Values that differ each time are refused."""

import pytest

from tw import Job, SpecError
from tw._runtime import encode


def test_the_address_of_an_object_is_no_value() -> None:
    job = Job(name="a", command="x", env={"WHAT": str(object())})
    with pytest.raises(SpecError, match="address of an object") as raised:
        encode(job)
    assert raised.value.code == "spec.nondeterministic"


def test_text_about_addresses_is_fine() -> None:
    encode(Job(name="a", command="x", env={"HELP": "at 0x10, or <at 0x7f00>"}))
