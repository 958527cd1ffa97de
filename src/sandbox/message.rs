//! What the child, and the forerunner before it, tell the parent through their channel.

use rustix::io::Errno;

/// Where the child failed and what the kernel said.
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
    /// The command could not be executed. The last message.
    Failed(Report),
    /// The forerunner could not make a namespace, or the child. The last message.
    NoNamespaces(Errno),
    /// The forerunner could not bring `lo` up. The last message.
    NoLoopback(Errno),
    /// The command was executed.
    Started,
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
            _ => Self::Ended(first as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_sent() {
        let failed = Message::Failed(Report { step: 70_000, errno: Errno::PERM });
        let refused = [Message::NoNamespaces(Errno::NOSPC), Message::NoLoopback(Errno::NODEV)];
        for message in refused.into_iter().chain([Message::Started, failed, Message::Ended(139)]) {
            assert_eq!(Message::from_bytes(message.to_bytes()), message);
        }
    }
}
