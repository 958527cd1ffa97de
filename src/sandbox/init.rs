//! The first process of the sandbox, while the command runs. It is still the child: the same rules bind it, system calls only.

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions};

use crate::sys::{self, SignalOrigin};

/// PID 1 of the sandbox: passes on what the parent signals and reaps what the command leaves. With the command everything else
/// in the sandbox ends. Returns the command's exit status, or 128+n for the signal n, when no other process is left.
pub(super) fn serve(command: Pid) -> u8 {
    loop {
        let Ok(received) = sys::wait_for_signal() else {
            continue;
        };
        if received.number == Signal::CHILD.as_raw() {
            if let Some(status) = reap(command) {
                end_all_others();
                return status;
            }
        } else if is_for_command(received.origin, command)
            && let Some(signal) = Signal::from_named_raw(received.number)
        {
            // It may have ended in this moment; SIGCHLD tells.
            let _ = process::kill_process(command, signal);
        }
    }
}

/// Whether a signal that has reached the first process is to be passed on.
fn is_for_command(origin: SignalOrigin, command: Pid) -> bool {
    match origin {
        SignalOrigin::Parent => true,
        // For a key of the terminal, or a hang-up, the kernel signals the whole process group: the command too, unless it has
        // left the group, as timeout(1) does.
        SignalOrigin::Kernel => sys::process_group(Some(command)) != sys::process_group(None),
        // Who signals the group from outside has signalled the parent as well, which passes it on; and the command itself has
        // no business with PID 1.
        SignalOrigin::Other => false,
    }
}

/// Reaps every process that has ended; the status of `command` once it is among them.
fn reap(command: Pid) -> Option<u8> {
    let mut outcome = None;
    while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
        if pid == command {
            let by_signal = status.terminating_signal().map(|signal| 128 + signal);
            outcome = status.exit_status().or(by_signal).map(|code| code as u8);
        }
    }
    outcome
}

/// Kills and reaps every other process of the PID namespace. They are all our children, or become it when their parents end.
fn end_all_others() {
    loop {
        match process::wait(WaitOptions::NOHANG) {
            // A process that is just being created gets no signal, so it is sent again after each that was reaped.
            Ok(None) => {
                sys::kill_all_others();
                let _ = process::wait(WaitOptions::empty());
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
