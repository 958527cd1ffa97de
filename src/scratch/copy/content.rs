//! Copies the content of one regular file: shared blocks where the file system can, holes kept, else by the kernel, else by hand.

use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    SeekFrom, Stat, XattrFlags, copy_file_range, fgetxattr, flistxattr, flistxattr_query, fsetxattr, ftruncate,
    ioctl_ficlone, seek,
};
use rustix::io::{Errno, pread, pwrite};

use super::{CheckInterrupt, Failure};

/// The most that is copied between two looks for an interruption.
const STRETCH: u64 = 64 << 20;
/// What is read and written at once where the kernel cannot copy by itself.
const BUFFER: usize = 256 << 10;
/// The kernel's own limit of an extended attribute's value, and of the list of their names.
const LARGEST_ATTRIBUTE: usize = 64 << 10;

/// How to copy, as the first files have taught.
#[derive(Debug, Default)]
pub(super) struct FileCopy {
    cannot_share_blocks: bool,
    cannot_copy_range: bool,
    buffer: Vec<u8>,
}

impl FileCopy {
    /// Copies what is in `source`, of which `status` tells, to the empty file `target`.
    pub(super) fn copy(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        status: &Stat,
        check_interrupt: CheckInterrupt<'_>,
    ) -> Result<(), Failure> {
        let size = u64::try_from(status.st_size).unwrap_or(0);
        if size == 0 || self.share_blocks(source, target)? {
            return Ok(());
        }
        let has_holes = u64::try_from(status.st_blocks).unwrap_or(0) * 512 < size;
        if !has_holes {
            return self.copy_stretch(source, target, 0, size, check_interrupt);
        }
        ftruncate(target, size).map_err(Failure::NoRoom)?;
        let mut position = 0;
        while let Some((start, end)) = next_data(source, position, size)? {
            check_interrupt()?;
            self.copy_stretch(source, target, start, end, check_interrupt)?;
            position = end;
        }
        Ok(())
    }

    /// Whether the two files now share their blocks: see [`ioctl_ficlone(2)`].
    ///
    /// [`ioctl_ficlone(2)`]: https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html
    fn share_blocks(&mut self, source: &OwnedFd, target: &OwnedFd) -> Result<bool, Failure> {
        if self.cannot_share_blocks {
            return Ok(false);
        }
        match ioctl_ficlone(target, source) {
            Ok(()) => Ok(true),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(Failure::NoRoom(errno)),
            Err(_) => {
                self.cannot_share_blocks = true;
                Ok(false)
            }
        }
    }

    fn copy_stretch(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        start: u64,
        end: u64,
        check_interrupt: CheckInterrupt<'_>,
    ) -> Result<(), Failure> {
        let mut position = start;
        while position < end {
            let wanted = (end - position).min(STRETCH);
            let copied = self.copy_some(source, target, position, wanted)?;
            if copied == 0 {
                // The file has become shorter.
                break;
            }
            position += copied;
            if position < end {
                check_interrupt()?;
            }
        }
        Ok(())
    }

    fn copy_some(&mut self, source: &OwnedFd, target: &OwnedFd, position: u64, wanted: u64) -> Result<u64, Failure> {
        if !self.cannot_copy_range {
            let (mut from, mut to) = (position, position);
            match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted as usize) {
                Ok(copied) if copied > 0 => return Ok(copied as u64),
                // Some file systems answer so for what they can only read.
                Ok(_) => {}
                Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => return Err(Failure::NoRoom(errno)),
                Err(_) => self.cannot_copy_range = true,
            }
        }
        self.read_and_write(source, target, position, wanted)
    }

    fn read_and_write(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        position: u64,
        wanted: u64,
    ) -> Result<u64, Failure> {
        self.buffer.clear();
        self.buffer.reserve_exact(BUFFER);
        pread(source, spare_capacity(&mut self.buffer), position).map_err(Failure::NoRoom)?;
        self.buffer.truncate(wanted as usize);
        let mut written = 0;
        while let Some(rest) = self.buffer.get(written..).filter(|rest| !rest.is_empty()) {
            written += pwrite(target, rest, position + written as u64).map_err(Failure::NoRoom)?;
        }
        Ok(written as u64)
    }
}

/// The next part of a file with holes that holds data: its start and end.
fn next_data(file: &OwnedFd, position: u64, size: u64) -> Result<Option<(u64, u64)>, Failure> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) if start < size => {
            let end = seek(file, SeekFrom::Hole(start)).map_err(Failure::NoRoom)?;
            Ok(Some((start, end.min(size))))
        }
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) if position < size => Ok(Some((position, size))),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(Failure::NoRoom(errno)),
    }
}

/// Copies the extended attributes that belong to the user, and access control lists. Where the target takes none they are left
/// out, as `cp -a` does; those of security modules stay with the modules.
pub(super) fn copy_attributes(source: impl AsFd, target: &OwnedFd) -> rustix::io::Result<()> {
    let source = source.as_fd();
    match flistxattr_query(source) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::ACCESS | Errno::PERM) => return Ok(()),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let mut names = Vec::with_capacity(LARGEST_ATTRIBUTE);
    flistxattr(source, spare_capacity(&mut names))?;
    for name in names.split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") && !name.starts_with(b"system.posix_acl_") {
            continue;
        }
        let mut value = Vec::with_capacity(LARGEST_ATTRIBUTE);
        match fgetxattr(source, name, spare_capacity(&mut value))
            .and_then(|_| fsetxattr(target, name, &value, XattrFlags::empty()))
        {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
