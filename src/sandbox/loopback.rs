//! The loopback interface of the sandbox's network namespace, brought up without netlink.

use std::os::fd::{AsFd, OwnedFd};

use linux_raw_sys::net::net_device_flags::{IFF_LOOPBACK, IFF_RUNNING, IFF_UP};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys;

/// Brings `lo` up in the network namespace of this process; the kernel then gives it 127.0.0.1/8 and ::1/128 by itself. Returns a
/// descriptor of the namespace. Makes system calls only.
pub(super) fn raise() -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let flags = IFF_UP as u16 | IFF_LOOPBACK as u16 | IFF_RUNNING as u16;
    let namespace =
        sys::set_interface_flags(socket.as_fd(), c"lo", flags).and_then(|()| sys::network_namespace_of(socket.as_fd()));
    sys::close(socket);
    namespace
}
