//! Brings the loopback interface of the sandbox's network namespace up, without netlink.
//!
//! It takes the kernel as long as a third of all the mounts, so it is done by the parent, on the other core, while the child mounts:
//! the child opens a socket in its network namespace and hands it over. Who made a user namespace has every capability in it.

use std::os::fd::{AsFd, OwnedFd};

use linux_raw_sys::net::net_device_flags::{IFF_LOOPBACK, IFF_RUNNING, IFF_UP};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys;

/// A socket that leads to the network namespace of this process. Makes a system call only.
pub(super) fn socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

/// Brings `lo` up in the network namespace of `socket`; the kernel then gives it 127.0.0.1/8 and ::1/128 by itself.
pub(super) fn raise(socket: &OwnedFd) -> Result<()> {
    let flags = IFF_UP as u16 | IFF_LOOPBACK as u16 | IFF_RUNNING as u16;
    sys::set_interface_flags(socket.as_fd(), c"lo", flags)
}
