//! Carries bytes between the caller's terminal and the command's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, Result, read, write};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

/// More than a terminal gives at once.
const CAPACITY: usize = 16 << 10;

/// The master of the command's terminal, and the bytes on their way to it and from it. Neither direction waits for the other, and in
/// each nothing is read before all that was read before is written.
#[derive(Debug)]
pub(super) struct Relay {
    master: OwnedFd,
    /// While it is open the master has no end, though the command may close its terminal and open it again.
    _slave: OwnedFd,
    input: Buffer,
    output: Buffer,
}

impl Relay {
    /// # Errors
    /// `EMFILE` at the limit of descriptors.
    pub(super) fn new(master: OwnedFd) -> Result<Self> {
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        Ok(Self { master, _slave: slave, input: Buffer::new(), output: Buffer::new() })
    }

    /// A new size reaches the command with a SIGWINCH.
    pub(super) fn set_size(&self, size: Winsize) {
        // It cannot fail on a terminal that is open.
        let _ = tcsetwinsize(&self.master, size);
    }

    /// What is worth waiting for at the command's terminal.
    pub(super) fn own_events(&self) -> PollFlags {
        events(self.output.is_empty(), !self.input.is_empty())
    }

    /// The same at the caller's, from which we may read or not.
    pub(super) fn callers_events(&self, may_read: bool) -> PollFlags {
        events(may_read && self.input.is_empty(), !self.output.is_empty())
    }

    /// Carries what can be carried without waiting; from the caller's `terminal` only where it is `readable`.
    ///
    /// # Errors
    /// The caller's terminal is gone.
    pub(super) fn carry(&mut self, terminal: BorrowedFd<'_>, readable: bool) -> Result<()> {
        if readable && self.input.is_empty() {
            self.input.fill_from(terminal)?;
        }
        self.input.empty_into(self.master.as_fd())?;
        if self.output.is_empty() {
            self.output.fill_from(self.master.as_fd())?;
        }
        self.output.empty_into(terminal)
    }

    /// Whether all that the command has written so far is at the caller's `terminal`. Carries some of it where it is not.
    ///
    /// # Errors
    /// The caller's terminal is gone.
    pub(super) fn is_all_out(&mut self, terminal: BorrowedFd<'_>) -> Result<bool> {
        self.output.empty_into(terminal)?;
        if self.output.is_empty() {
            self.output.fill_from(self.master.as_fd())?;
            return Ok(self.output.is_empty());
        }
        Ok(false)
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

fn events(read: bool, write: bool) -> PollFlags {
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, read);
    events.set(PollFlags::OUT, write);
    events
}

/// Bytes that were read and not yet written.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    /// Those of them that are written.
    start: usize,
    /// Those of them that were read.
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; CAPACITY].into(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads what is there into a buffer that is empty. A terminal in raw mode has an end only when it is hung up: `EIO`.
    fn fill_from(&mut self, source: BorrowedFd<'_>) -> Result<()> {
        match read(source, &mut *self.bytes) {
            Ok(0) => Err(Errno::IO),
            Ok(count) => {
                (self.start, self.end) = (0, count);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Writes as much as is taken.
    fn empty_into(&mut self, target: BorrowedFd<'_>) -> Result<()> {
        match self.bytes.get(self.start..self.end) {
            None | Some([]) => Ok(()),
            Some(rest) => match write(target, rest) {
                Ok(count) => {
                    self.start += count;
                    Ok(())
                }
                Err(Errno::AGAIN | Errno::INTR) => Ok(()),
                Err(errno) => Err(errno),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pty::{openpt, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

    use super::*;

    /// A relay whose command's terminal passes on every byte, that terminal, and both ends of what stands for the caller's.
    fn relay() -> (Relay, OwnedFd, OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&master).unwrap();
        fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut modes = tcgetattr(&slave).unwrap();
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        let (terminal, user) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        (Relay::new(master).unwrap(), slave, terminal, user)
    }

    #[test]
    fn bytes_go_both_ways() {
        let (mut relay, slave, terminal, user) = relay();
        write(&user, b"typed").unwrap();
        write(&slave, b"printed").unwrap();
        relay.carry(terminal.as_fd(), true).unwrap();
        let mut bytes = [0; 16];
        let count = read(&slave, &mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"typed");
        let count = read(&user, &mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"printed");
    }

    #[test]
    fn what_nobody_takes_is_kept_and_no_more_is_read() {
        let (mut relay, slave, terminal, user) = relay();
        while write(&terminal, &[b'x'; 4096]).is_ok() {}
        write(&slave, b"printed").unwrap();
        relay.carry(terminal.as_fd(), true).unwrap();
        assert_eq!(relay.own_events(), PollFlags::empty());
        assert_eq!(relay.callers_events(false), PollFlags::OUT);
        assert!(!relay.is_all_out(terminal.as_fd()).unwrap());
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        while !relay.is_all_out(terminal.as_fd()).unwrap() || relay.callers_events(false) != PollFlags::empty() {
            while let Ok(count) = read(&user, &mut bytes) {
                seen.extend_from_slice(&bytes[..count]);
            }
        }
        let count = read(&user, &mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..count]);
        assert!(seen.ends_with(b"xprinted"));
    }

    #[test]
    fn the_terminal_that_is_gone_is_an_error() {
        let (mut relay, _slave, terminal, user) = relay();
        drop(user);
        assert_eq!(relay.carry(terminal.as_fd(), true), Err(Errno::IO));
    }

    #[test]
    fn the_command_sees_the_new_size() {
        let (relay, slave, ..) = relay();
        relay.set_size(Winsize { ws_row: 11, ws_col: 22, ws_xpixel: 0, ws_ypixel: 0 });
        let size = tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (11, 22));
    }
}
