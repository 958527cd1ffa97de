"""Everything about a directory tree that could show that somebody wrote to it."""

import hashlib
import os
import stat


def fingerprint(tree):
    """What each file of `tree` is, by path; reading it does not change it."""
    top = os.fsencode(tree)
    found = {b".": describe(top)}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = describe(path)
    return found


def describe(path):
    """All but the access time and, for a directory, the size. The time of the last change of state betrays every write."""
    status = os.lstat(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    return {
        "inode": status.st_ino,
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "names": status.st_nlink,
        "size": None if is_directory else status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
        "attributes": os.listxattr(path, follow_symlinks=False),
        "content": content(path, status),
    }


def content(path, status):
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        for start, end in data_of(descriptor, status.st_size):
            digest.update(b"%d-%d:" % (start, end))
            digest.update(os.pread(descriptor, end - start, start))
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def data_of(descriptor, size):
    """The parts of a file that are not holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position
