"""skipstone devices."""
from __future__ import annotations

from command_line import assert_one_line_error, skipstone

from skipstone import _native
from skipstone.cli import devices


def test_json() -> None:
    done = skipstone("devices", "--json")
    assert done.code == 0 and done.err == ""
    said = done.json
    assert set(said) == {"devices", "unavailable", "auto"}
    cpu = said["devices"][0]
    assert set(cpu) == {"name", "description", "usable_cores", "isa", "isas", "memory_bytes", "read_bytes_per_second"}
    assert cpu["name"] == "cpu" and cpu["description"]
    assert cpu["usable_cores"] == _native.default_threads() and cpu["isas"] == _native.isas() and cpu["isa"] == cpu["isas"][0]
    assert cpu["memory_bytes"] > 1e8 and cpu["read_bytes_per_second"] > 0
    for missing in said["unavailable"]:
        assert set(missing) == {"name", "reason", "fix"} and all(missing.values())


def test_what_cannot_be_used() -> None:
    cards = [{"name": "cuda", "problem": "The driver was not found (libcuda.so.1: no such file); install the driver."},
             {"name": "hip", "problem": "AMD's HIP runtime shows no card; load the kernel driver."}, {"name": "cuda:0", "problem": ""}, {"name": "cuda:1", "problem": "compute capability 6.1 is too old; 7.5 or newer is needed"}]
    missing = {m["name"]: (m["reason"], m["fix"]) for m in devices._unavailable(cards, ["avx2", "generic"])}
    assert set(missing) == {"amx", "avx512", "avxvnni", "CUDA", "cuda:1", "HIP"}
    assert missing["HIP"] == ("AMD's HIP runtime shows no card", "load the kernel driver")
    assert missing["CUDA"] == ("The driver was not found (libcuda.so.1: no such file)", "install the driver") and missing["cuda:1"][1] == "7.5 or newer is needed"
    assert "avx2" in missing["avx512"][1]


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
