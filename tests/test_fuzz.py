"""That «make fuzz» can build its targets: with a lock file of its own, which nothing else that is built looks at."""

import tomllib

from support.session import CHECKOUT


def packages(lock):
    return {package["name"]: package for package in tomllib.loads((CHECKOUT / lock).read_text())["package"]}


def test_what_is_fuzzed_is_built_of_what_the_program_is_built_of():
    """After a change of the dependencies: `cp Cargo.lock fuzz/ && cargo metadata --manifest-path fuzz/Cargo.toml`."""
    ours, fuzzed = packages("Cargo.lock"), packages("fuzz/Cargo.lock")
    wanted = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["dependencies"]
    assert {name.split()[0] for name in fuzzed["nix-build-shell"]["dependencies"]} == set(wanted)
    assert {name: package["version"] for name, package in fuzzed.items() if name in ours} == {
        name: ours[name]["version"] for name in fuzzed if name in ours
    }
