//! Brings the loopback interface of a new network namespace up, without netlink.

use std::os::fd::AsFd;

use linux_raw_sys::net::net_device_flags::{IFF_LOOPBACK, IFF_RUNNING, IFF_UP};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys;

/// Brings `lo` up; the kernel then gives it 127.0.0.1/8 and ::1/128 by itself. Makes system calls only.
pub(super) fn raise() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let flags = IFF_UP as u16 | IFF_LOOPBACK as u16 | IFF_RUNNING as u16;
    let result = sys::set_interface_flags(socket.as_fd(), c"lo", flags);
    sys::close(socket);
    result
}
