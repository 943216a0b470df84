"""skipstone devices."""
from __future__ import annotations

from command_line import assert_one_line_error, skipstone

from skipstone import _native


def test_json() -> None:
    done = skipstone("devices", "--json")
    assert done.code == 0 and done.err == ""
    said = done.json
    assert set(said) == {"devices", "unavailable"}
    cpu = said["devices"][0]
    assert set(cpu) == {"name", "description", "usable_cores", "isa", "isas", "memory_bytes", "read_bytes_per_second"}
    assert cpu["name"] == "cpu" and cpu["description"]
    assert cpu["usable_cores"] == _native.default_threads() and cpu["isas"] == _native.isas() and cpu["isa"] == cpu["isas"][0]
    assert cpu["memory_bytes"] > 1e8 and cpu["read_bytes_per_second"] > 0
    for missing in said["unavailable"]:
        assert set(missing) == {"name", "reason", "fix"} and all(missing.values())


def test_for_people() -> None:
    done = skipstone("devices")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("cpu ")
    for word in ("usable cores", "GB/s", f"instruction set {_native.isas()[0]}"):
        assert word in done.out


def test_instruction_set_can_be_asked_for() -> None:
    for name in _native.isas():
        assert skipstone("devices", "--json", SKIPSTONE_ISA=name).json["devices"][0]["isa"] == name
    assert_one_line_error(skipstone("devices", SKIPSTONE_ISA="z80"), "SKIPSTONE_ISA", "z80")
