//! Makes mounts read-only on kernels before Linux 5.12, which have no `mount_setattr(2)`: a remount for each of them.
//!
//! It is the child that does so: system calls only, and no memory but the stack.

use std::ffi::CStr;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxFlags, openat, statvfs, statx};
use rustix::io::{Errno, Result, read};
use rustix::mount::{MountFlags, mount_remount};

use crate::sys;

/// The longest line of the table of mounts that is understood: two paths, escaped, and what else is in it.
const LONGEST_LINE: usize = 12 << 10;
/// The most mounts below one. A host has some dozens in all.
const MOST_MOUNTS: usize = 1024;
/// `STATX_MNT_ID` of [`statx(2)`], which rustix does not name; since Linux 5.8.
///
/// [`statx(2)`]: https://man7.org/linux/man-pages/man2/statx.2.html
const MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x1000);

/// Makes the mount at `target`, and with `recursive` every mount below it, read-only.
///
/// # Errors
/// The kernel's; `E2BIG` for more mounts, or longer paths, than anybody has.
pub(super) fn remount(target: &CStr, recursive: bool) -> Result<()> {
    remount_one(target)?;
    if recursive { remount_below(target) } else { Ok(()) }
}

/// A remount sets all flags of a mount anew. Those that a more privileged mount namespace has set are locked, and must be named again.
fn remount_one(target: &CStr) -> Result<()> {
    let has = statvfs(target)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    flags.set(MountFlags::NOSUID, has.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, has.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, has.contains(StatVfsMountFlags::NOEXEC));
    flags.set(MountFlags::NODIRATIME, has.contains(StatVfsMountFlags::NODIRATIME));
    let times = [StatVfsMountFlags::NOATIME, StatVfsMountFlags::RELATIME].map(|flag| has.contains(flag));
    flags |= match times {
        [true, _] => MountFlags::NOATIME,
        [false, true] => MountFlags::RELATIME,
        [false, false] => MountFlags::STRICTATIME,
    };
    mount_remount(target, flags, c"")
}

/// Goes through the table of mounts, in which a mount comes after the one that it is in.
// Inlined, its arrays would be in the frame of every other step too, and cost as many page faults.
#[inline(never)]
fn remount_below(target: &CStr) -> Result<()> {
    // The table calls what is below the new root as if that was ours already: from the working directory that is right.
    let is_inside = !target.to_bytes().starts_with(b"/");
    let mut known = [0; MOST_MOUNTS];
    known[0] = statx(CWD, target, AtFlags::empty(), MOUNT_ID).map(|status| status.stx_mnt_id)?;
    let mut count = 1;
    let table = openat(CWD, c"/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0; LONGEST_LINE];
    let mut filled = 0;
    let outcome = loop {
        let end = match read(&table, &mut buffer[filled..]) {
            Ok(0) => break Ok(()),
            Ok(length) => filled + length,
            Err(Errno::INTR) => continue,
            Err(errno) => break Err(errno),
        };
        let mut start = 0;
        while let Some(length) = buffer[start..end].iter().position(|byte| *byte == b'\n') {
            if let Err(errno) = remount_if_below(&mut buffer[start..=start + length], is_inside, &mut known, &mut count)
            {
                sys::close(table);
                return Err(errno);
            }
            start += length + 1;
        }
        buffer.copy_within(start..end, 0);
        filled = end - start;
        if filled == buffer.len() {
            break Err(Errno::TOOBIG);
        }
    };
    sys::close(table);
    outcome
}

/// Remounts the mount that a line tells of, if it is in one of those that are `known`, and knows it then. The line is changed.
fn remount_if_below(line: &mut [u8], is_inside: bool, known: &mut [u64; MOST_MOUNTS], count: &mut usize) -> Result<()> {
    let Some(Mount { id, parent, point }) = Mount::parse(line) else { return Ok(()) };
    if !known.iter().take(*count).any(|known| *known == parent) {
        return Ok(());
    }
    let place = known.get_mut(*count).ok_or(Errno::TOOBIG)?;
    *place = id;
    *count += 1;
    let below = CStr::from_bytes_with_nul(point.to_bytes_with_nul().get(1..).unwrap_or_default());
    remount_one(if is_inside { below.map_err(|_| Errno::INVAL)? } else { point })
}

/// What a line of `/proc/self/mountinfo` says, as of `proc_pid_mountinfo(5)`.
struct Mount<'a> {
    id: u64,
    parent: u64,
    point: &'a CStr,
}

impl<'a> Mount<'a> {
    /// The line ends in a byte of its own, which becomes the path's last, if it is not before.
    fn parse(line: &'a mut [u8]) -> Option<Self> {
        let mut spaces = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
        let (first, second) = (spaces.next()?, spaces.next()?);
        let (start, end) = (spaces.nth(1)? + 1, spaces.next()?);
        let (id, parent) = (number(line.get(..first)?)?, number(line.get(first + 1..second)?)?);
        let point = line.get_mut(start..=end)?;
        unescape(point)?;
        CStr::from_bytes_until_nul(point).ok().map(|point| Self { id, parent, point })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

/// Takes the kernel's escapes back in place, three octal digits after a backslash, and ends the path, which has a byte behind it.
fn unescape(field: &mut [u8]) -> Option<()> {
    let length = field.len().checked_sub(1)?;
    let (mut from, mut to) = (0, 0);
    while from < length {
        let mut byte = *field.get(from)?;
        from += 1;
        if byte == b'\\'
            && let Some([a, b, c]) = field.get(from..from + 3).and_then(|digits| digits.first_chunk::<3>())
        {
            byte = (a & 3) << 6 | (b & 7) << 3 | (c & 7);
            from += 3;
        }
        *field.get_mut(to)? = byte;
        to += 1;
    }
    *field.get_mut(to)? = 0;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_which_mount_it_is_and_where() {
        let mut line = *br"41 31 0:38 / /mnt/a\040b\134 rw,relatime shared:4 - ext4 /dev/sda rw ";
        let mount = Mount::parse(&mut line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.point), (41, 31, c"/mnt/a b\\"));
        for line in [&b"41 31 0:38 / "[..], b"x 31 0:38 / /mnt rw", b" "] {
            assert!(Mount::parse(&mut line.to_vec()).is_none());
        }
    }
}
