//! Keeps a build that shares the host's network away from the host's abstract unix sockets. They have no file that could be
//! hidden: whoever is in a network namespace sees all of them.
//!
//! As newer versions of Nix do, it goes without where the kernel cannot do it.

use std::os::fd::AsFd;

use linux_raw_sys::landlock::LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET;
use rustix::io::{Errno, Result};

use crate::sys;

/// From now on this process, and all that it starts, reach only abstract sockets that one of them has made: see [`landlock(7)`].
/// Who is outside can still connect to theirs. Makes system calls only.
///
/// # Errors
/// `EPERM` without `no_new_privs`. None where the kernel has no landlock, or one without scopes (before Linux 6.12), or where a
/// container forbids it.
///
/// [`landlock(7)`]: https://man7.org/linux/man-pages/man7/landlock.7.html
pub(super) fn scope_abstract_sockets() -> Result<()> {
    match sys::landlock_create_ruleset(LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET) {
        Ok(ruleset) => {
            let restricted = sys::landlock_restrict_self(ruleset.as_fd());
            sys::close(ruleset);
            restricted
        }
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::TOOBIG | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::thread;

    use rustix::thread::set_no_new_privs;

    use super::*;

    fn abstract_address(name: &str) -> SocketAddr {
        SocketAddr::from_abstract_name(format!("nix-build-shell-{}-{name}", std::process::id())).unwrap()
    }

    #[test]
    fn sockets_of_the_outside_are_out_of_reach_where_the_kernel_can_do_it() {
        let outside = abstract_address("outside");
        let _listener = UnixListener::bind_addr(&outside).unwrap();
        let has_scopes = sys::landlock_create_ruleset(LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET).is_ok();
        // Landlock binds the thread that asks for it, and no other.
        let scoped = thread::spawn(move || {
            set_no_new_privs(true).unwrap();
            scope_abstract_sockets().unwrap();
            let refused = UnixStream::connect_addr(&outside).err();
            let own = abstract_address("inside");
            let _listener = UnixListener::bind_addr(&own).unwrap();
            UnixStream::connect_addr(&own).unwrap();
            refused.and_then(|error| Errno::from_io_error(&error))
        });
        assert_eq!(scoped.join().unwrap(), has_scopes.then_some(Errno::PERM));
        UnixStream::connect_addr(&abstract_address("outside")).unwrap();
    }
}
