//! What the child, the forerunner and its helper before it, and the parent tell each other through their channel.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal};

/// Where the child failed, or the forerunner with a step that it does ahead, and what the kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The number of the step; the number of steps for the execution of the command.
    pub step: usize,
    /// The kernel's answer.
    pub errno: Errno,
}

/// What the parent is told. If the channel ends before the last message, the child was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A step could not be done, or the command not be executed. The last message.
    Failed(Report),
    /// The forerunner, or its helper, could not make a namespace, or the child. The last message.
    NoNamespaces(Errno),
    /// The forerunner could not create the child in its cgroup, which has to keep its limits. The last message.
    NoCgroup(Errno),
    /// The forerunner, or its helper, could not be made to end with its parent. The last message.
    NoForerunner(Errno),
    /// Who makes the network namespace could not hand it over. The last message.
    NoHandover(Errno),
    /// The same could not bring `lo` up. The last message.
    NoLoopback(Errno),
    /// With it comes the master of the pseudo-terminal that the command gets.
    Terminal,
    /// With it comes the sandbox's root.
    Root,
    /// The sender ends, and another process goes on in the sandbox's PID namespace: its number outside. With it comes its pidfd.
    GoesOn(Pid),
    /// There are too many processes for the command. It is tried again.
    NoRoom,
    /// The command was executed.
    Started,
    /// This signal has stopped the command, which has a pseudo-terminal.
    Stopped(i32),
    /// The command, and every other process of the sandbox, has ended; with this exit status, or 128+n for the signal n. The
    /// last message.
    Ended(u8),
}

impl Message {
    /// Bytes of a message in the channel.
    pub(super) const SIZE: usize = 12;

    /// As it goes through the channel: which one, and two numbers.
    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let [kind, first, second] = match self {
            Self::Failed(Report { step, errno }) => [0, step as u32, errno.raw_os_error().cast_unsigned()],
            Self::NoNamespaces(errno) => [1, 0, errno.raw_os_error().cast_unsigned()],
            Self::NoLoopback(errno) => [2, 0, errno.raw_os_error().cast_unsigned()],
            Self::Started => [3, 0, 0],
            Self::Ended(status) => [4, u32::from(status), 0],
            Self::Terminal => [5, 0, 0],
            Self::Root => [11, 0, 0],
            Self::NoRoom => [12, 0, 0],
            Self::Stopped(signal) => [6, signal.cast_unsigned(), 0],
            Self::NoCgroup(errno) => [8, 0, errno.raw_os_error().cast_unsigned()],
            Self::NoForerunner(errno) => [9, 0, errno.raw_os_error().cast_unsigned()],
            Self::NoHandover(errno) => [10, 0, errno.raw_os_error().cast_unsigned()],
            Self::GoesOn(pid) => [7, pid.as_raw_nonzero().get().cast_unsigned(), 0],
        };
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
            (kind.to_ne_bytes(), first.to_ne_bytes(), second.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// As it came through the channel.
    pub(super) fn from_bytes([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; Self::SIZE]) -> Self {
        let number = |bytes| u32::from_ne_bytes(bytes);
        let (first, second) = (number([e, f, g, h]), number([i, j, k, l]));
        let errno = || Errno::from_raw_os_error(second.cast_signed());
        match number([a, b, c, d]) {
            0 => Self::Failed(Report { step: first as usize, errno: errno() }),
            1 => Self::NoNamespaces(errno()),
            2 => Self::NoLoopback(errno()),
            3 => Self::Started,
            5 => Self::Terminal,
            6 => Self::Stopped(first.cast_signed()),
            8 => Self::NoCgroup(errno()),
            9 => Self::NoForerunner(errno()),
            10 => Self::NoHandover(errno()),
            11 => Self::Root,
            12 => Self::NoRoom,
            7 if let Some(pid) = Pid::from_raw(first.cast_signed()) => Self::GoesOn(pid),
            _ => Self::Ended(first as u8),
        }
    }
}

/// What the parent tells the first process while the command has a pseudo-terminal. A SIGCONT comes with it, since the first process
/// listens to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send this signal to the command's whole process group, as the kernel does for a key of the terminal.
    Signal(Signal),
    /// Give the pseudo-terminal to the command, and let it go on where it was stopped.
    Foreground,
    /// Let it go on without the pseudo-terminal: it is stopped when it reads from it.
    Background,
}

impl Order {
    /// Bytes of an order in the channel.
    pub(super) const SIZE: usize = 1;

    /// As it goes through the channel: the number of a signal, or one that no signal has.
    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        match self {
            Self::Signal(signal) => [signal.as_raw() as u8],
            Self::Foreground => [0],
            Self::Background => [u8::MAX],
        }
    }

    /// As it came through the channel; `None` for a signal that has no name.
    pub(super) fn from_bytes([number]: [u8; Self::SIZE]) -> Option<Self> {
        match number {
            0 => Some(Self::Foreground),
            u8::MAX => Some(Self::Background),
            number => Signal::from_named_raw(number.into()).map(Self::Signal),
        }
    }
}

/// Sends `bytes` and a descriptor. Makes a system call only.
pub(super) fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(|_| ())
}

/// Receives bytes, and the descriptor that came with them if there is one. Returns how many; none at the end. Makes a system call only.
pub(super) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_sent() {
        let failed = Message::Failed(Report { step: 70_000, errno: Errno::PERM });
        let refused = [Message::NoNamespaces(Errno::NOSPC), Message::NoLoopback(Errno::NODEV), failed];
        let refused_more =
            [Message::NoCgroup(Errno::ACCESS), Message::NoForerunner(Errno::NOMEM), Message::NoHandover(Errno::NOBUFS)];
        let others = [Message::Terminal, Message::Root, Message::NoRoom, Message::Started];
        let ends = [Message::Ended(139), Message::Stopped(20)];
        for message in
            others.into_iter().chain(ends).chain(refused).chain(refused_more).chain([Message::GoesOn(Pid::INIT)])
        {
            assert_eq!(Message::from_bytes(message.to_bytes()), message);
        }
    }

    #[test]
    fn an_order_is_read_as_it_was_given() {
        for order in [Order::Foreground, Order::Background, Order::Signal(Signal::HUP), Order::Signal(Signal::TSTP)] {
            assert_eq!(Order::from_bytes(order.to_bytes()), Some(order));
        }
    }
}
