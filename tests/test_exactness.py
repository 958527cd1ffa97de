"""What a process sees in the sandbox is what Nix's builder saw, fact by fact."""

import platform

import pytest
from support.differences import (
    BUILT_BY_A_DAEMON,
    DIFFERENCES,
    OWN_STORE,
    PROBES,
    ROWS_OF_OTHER_TESTS,
    SETTINGS,
    SINGLE_USER,
    THROUGH_SUDO,
    rows_of_readme,
)
from support.probe import BuilderCall, abstract_listener, be_untidy, different, facts_in, printed_on_a_terminal, told

A_GROUP = 12345
"""One that the caller has besides his own."""


@pytest.fixture(params=[name for name in PROBES if name != "thirty-two-bit" or platform.machine() == "x86_64"])
def probe(request):
    return request.param


@pytest.fixture(params=SETTINGS)
def setting(request):
    return request.param


@pytest.fixture
def facts(builds, root, user, probe, setting):
    """What Nix's builder saw, and what the same builder sees when nix-build-shell runs it where it failed."""
    caller = root if setting == SINGLE_USER else user
    kept_for = builds.by_daemon if setting in BUILT_BY_A_DAEMON else caller.kept
    options = ["--store-root", builds.users_store()] if setting == OWN_STORE else []
    sudo = {"as_root": True, "env": {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.uid)}}
    with abstract_listener() as listener:
        how = caller.as_caller(
            groups=[A_GROUP],
            preexec_fn=be_untidy,
            pass_fds=[listener.fileno()],
            **(sudo if setting == THROUGH_SUDO else {}),
        )
        kept = kept_for(f"probe.{probe}")
        log = builds.logs[kept]
        call = BuilderCall.in_failed_build(log)
        # Each version of the probe that was ever built here has the same name.
        options = [*options, "--derivation", call.derivation]
        command_line = caller.command_line(*call.command(), build_dir=kept, options=options)
        printed = printed_on_a_terminal(command_line, **how)
    return facts_in(log), facts_in(printed)


def test_all_facts_are_those_of_nixs_builder_but_for_the_ones_that_readme_names(facts, probe, setting):
    admitted = [difference for difference in DIFFERENCES if difference.is_to_be_seen(probe, setting)]
    differing = different(*facts)
    explanations = {
        subject: [difference for difference in admitted if difference.explains(subject, *values)]
        for subject, values in differing.items()
    }
    complaints = []
    if unexplained := [subject for subject, explanation in explanations.items() if not explanation]:
        complaints.append(f"README admits no such difference:\n{told(*facts, unexplained)}")
    seen = {id(difference) for explanation in explanations.values() for difference in explanation}
    if gone := [difference for difference in admitted if id(difference) not in seen]:
        complaints.append("this does not differ (any more):\n" + "\n".join(map(str, gone)))
    if complaints:
        pytest.fail("\n\n".join(complaints), pytrace=False)


def test_every_row_of_readmes_table_shows_in_a_fact():
    assert set(rows_of_readme()) == {difference.row for difference in DIFFERENCES} | ROWS_OF_OTHER_TESTS
