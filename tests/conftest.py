"""What the tests are given: somebody who calls the program, and kept build directories that the real Nix made."""

import os
import subprocess
from pathlib import Path

import pytest
from support import prerequisites
from support.caller import Caller
from support.kinds import KINDS
from support.leftovers import Watch
from support.nix import USER, KeptBuilds
from support.session import Session, built_program

USERS = {"root": 0, "user": USER}


@pytest.fixture(scope="session")
def session():
    """The program to test is the one that NIX_BUILD_SHELL names, or the release build."""
    if reason := prerequisites.missing():
        pytest.exit(reason, returncode=3)
    program = os.environ.get("NIX_BUILD_SHELL") or built_program()
    if not program or not Path(program).is_file():
        pytest.exit(f"there is no program to test ({program or 'no release build'}): «make build» builds it", returncode=3)
    session = Session(program)
    for uid in USERS.values():
        session.remember_settings(uid)
    yield session
    session.remove()


@pytest.fixture(scope="session")
def builds(session):
    builds = KeptBuilds(session)
    yield builds
    builds.stop()


@pytest.fixture
def workspace(session):
    """A directory for one test, which root owns and everybody may enter."""
    path = session.make_directory("test")
    yield path
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


@pytest.fixture(autouse=True)
def nothing_is_left(session, builds, workspace):
    """After every test: no process, no mount, no scratch directory, and every kept directory as it was."""
    watch = Watch(session, workspace)
    yield
    watch.check(builds.fingerprints)


@pytest.fixture
def call_as(session, builds, workspace):
    """Makes a caller of a name."""

    def make(name):
        return Caller(name, USERS[name], session, builds, workspace)

    return make


@pytest.fixture(params=USERS)
def caller(request, call_as):
    """Each of the callers in turn: every test of the sandbox runs as root and as an unprivileged user."""
    return call_as(request.param)


@pytest.fixture
def user(call_as):
    return call_as("user")


@pytest.fixture
def root(call_as):
    return call_as("root")


@pytest.fixture(params=KINDS)
def opener(request, session, builds, workspace):
    """Each of the kinds of Nix in turn, with somebody who opens what it kept."""
    uid = 0 if request.param == "root" else USER
    return KINDS[request.param](request.param, uid, session, builds, workspace)
