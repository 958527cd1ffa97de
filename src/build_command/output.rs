//! What a command writes to standard error, carried to where it belongs.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::io::{Errno, Result, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{stderr, stdout};
use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::sys::terminal_number;

/// More than a terminal or Nix writes at once.
const CAPACITY: usize = 64 << 10;

/// Our end of it: of a terminal where standard error is one, so that there are colours and progress bars, and else of a pipe.
#[derive(Debug)]
pub(super) struct Output {
    ours: OwnedFd,
    is_terminal: bool,
    bytes: Box<[u8]>,
}

/// The command's ends.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) errors: OwnedFd,
    /// Where standard output is the same file as standard error: what is written to both is to stay in its order.
    pub(super) output: Option<OwnedFd>,
}

impl Output {
    /// # Errors
    /// The kernel's, for want of descriptors or terminals.
    pub(super) fn open() -> Result<(Self, Ends)> {
        let is_terminal = std::io::stderr().is_terminal();
        let (ours, theirs) = if is_terminal { terminal()? } else { pipe_with(PipeFlags::CLOEXEC)? };
        fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
        let output = are_same(stdout(), stderr()).then(|| theirs.try_clone()).transpose().map_err(|_| Errno::MFILE)?;
        let output = Ends { errors: theirs, output };
        Ok((Self { ours, is_terminal, bytes: vec![0; CAPACITY].into() }, output))
    }

    /// Carries what is there, and shows it to the caller. Nothing is there for now where it is empty.
    ///
    /// # Errors
    /// Nothing will ever be there again, or standard error takes no more.
    pub(super) fn carry(&mut self) -> Result<&[u8]> {
        let count = match read(&self.ours, &mut *self.bytes) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(errno),
        };
        let carried = &self.bytes[..count];
        write_all(stderr(), carried)?;
        Ok(carried)
    }

    /// Gives the command's terminal the size of the caller's. Returns whether it has one.
    pub(super) fn take_over_size(&self) -> bool {
        self.is_terminal && tcgetwinsize(stderr()).and_then(|size| tcsetwinsize(&self.ours, size)).is_ok()
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

/// A terminal like that on standard error, but that what is written comes out as it is: the caller's does the rest.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut modes = tcgetattr(stderr())?;
    modes.output_modes.remove(OutputModes::OPOST);
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    // One without a size has none to give.
    let _ = tcgetwinsize(stderr()).and_then(|size| tcsetwinsize(&ours, size));
    Ok((ours, theirs))
}

fn are_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (terminal_number(one), terminal_number(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), Err(_)) => match (fstat(one), fstat(other)) {
            (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
            _ => false,
        },
        _ => false,
    }
}

fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match write(target, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Whoever shares it with us has made it non-blocking.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(target, PollFlags::OUT)], None)),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
