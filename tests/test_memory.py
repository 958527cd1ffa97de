"""What the program itself takes while a command runs."""

from pathlib import Path

MOST = 4 << 10
"""In KiB. Without link/start-up.ld it is more than 5 MiB, with it less than 2.5."""


def test_the_functions_of_a_start_lie_side_by_side(caller):
    """What is executed once, of a program of which most is not, is mapped in large pieces."""
    with caller.start("bash", "-c", "echo ready; read") as running:
        assert running.line() == "ready"
        status = Path(f"/proc/{running.pid}/status").read_text()
    [peak] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    assert peak <= MOST, f"{peak} KiB were resident: «make order» has to be run again, or the linker takes no script (build.rs)"
