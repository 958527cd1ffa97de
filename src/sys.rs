//! System calls that rustix lacks, one thin safe function each.
//!
//! Everything here is a bare system call: no allocation, no libc, no lock. The child half of the sandbox may call it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use linux_raw_sys::general;
use linux_raw_sys::ioctl::{SIOCSIFFLAGS, TIOCGDEV};
use linux_raw_sys::landlock::{LANDLOCK_CREATE_RULESET_VERSION, landlock_ruleset_attr};
use linux_raw_sys::net::ifreq;
use linux_raw_sys::ptrace::{SECCOMP_GET_ACTION_AVAIL, SECCOMP_RET_ERRNO, SECCOMP_SET_MODE_FILTER};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::Signal;

use crate::plan::Namespaces;

/// The allocator of the standard library, which ends this process with a sentence where there is no memory, and not by a signal: what
/// was [set aside](set_memory_aside) is used up before. What that leaves behind a later run removes.
#[derive(Debug)]
pub struct Allocator;

/// What is said then.
const NO_MEMORY: &[u8] =
    b"nix-build-shell: there is no memory left for it (see \xc2\xabulimit -v\xc2\xbb, and what else runs)\n";
/// The exit status of our own errors.
const OWN_ERROR: i32 = 125;

/// Where the memory lies that was set aside, if there is some.
static SET_ASIDE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// More than a start takes once it has made a directory.
const SET_ASIDE_SIZE: usize = 1 << 20;

/// Sets memory aside for what comes once something is there to be removed again: what no longer fits a limit then is refused now.
///
/// # Errors
/// There is not that much.
pub fn set_memory_aside() -> Result<()> {
    if SET_ASIDE.load(Ordering::Relaxed).is_null() {
        // SAFETY: the kernel chooses a place where nothing is.
        let memory = unsafe {
            mmap_anonymous(ptr::null_mut(), SET_ASIDE_SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        SET_ASIDE.store(memory, Ordering::Relaxed);
    }
    Ok(())
}

/// Stands for the memory while a thread gives it back.
const IS_BEING_GIVEN_BACK: *mut c_void = ptr::dangling_mut();

/// Gives back what was set aside, once. Returns whether there is more memory than before: another thread may have done it meanwhile.
fn use_up_what_is_set_aside() -> bool {
    let mut memory = SET_ASIDE.load(Ordering::Acquire);
    let was_there = !memory.is_null();
    while !memory.is_null() {
        if memory == IS_BEING_GIVEN_BACK {
            rustix::thread::sched_yield();
            memory = SET_ASIDE.load(Ordering::Acquire);
            continue;
        }
        match SET_ASIDE.compare_exchange(memory, IS_BEING_GIVEN_BACK, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: nobody has ever used this mapping, and no other thread gives it back.
                let given_back = unsafe { munmap(memory, SET_ASIDE_SIZE) };
                SET_ASIDE.store(ptr::null_mut(), Ordering::Release);
                return given_back.is_ok();
            }
            Err(now) => memory = now,
        }
    }
    was_there
}

/// Tries it again with what was set aside, and ends this process where there is no memory even so.
fn checked(mut allocate: impl FnMut() -> *mut u8) -> *mut u8 {
    let mut memory = allocate();
    if memory.is_null() && use_up_what_is_set_aside() {
        memory = allocate();
    }
    if memory.is_null() {
        let _ = rustix::io::write(rustix::stdio::stderr(), NO_MEMORY);
        exit(OWN_ERROR);
    }
    memory
}

// SAFETY: all that it hands out is the system allocator's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller answers for the layout.
        checked(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller answers for the layout.
        checked(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller answers for all of it, and where it fails the memory is as it was.
        checked(|| unsafe { System.realloc(memory, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller answers for both.
        unsafe { System.dealloc(memory, layout) };
    }
}

/// The signals of one mask, as the kernel's `sigset_t` of 64 bits has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Every signal; the kernel leaves out SIGKILL and SIGSTOP by itself.
    pub const ALL: Self = Self(!0);

    /// The set of these signals.
    pub fn of(signals: &[Signal]) -> Self {
        Self(signals.iter().fold(0, |bits, signal| bits | (1 << (signal.as_raw() - 1))))
    }

    /// The signals of both sets.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Makes `signals` the blocked signals of this thread and returns those blocked before: [`rt_sigprocmask(2)`] with
/// `SIG_SETMASK`.
///
/// [`rt_sigprocmask(2)`]: https://man7.org/linux/man-pages/man2/sigprocmask.2.html
pub fn set_blocked_signals(signals: SignalSet) -> Result<SignalSet> {
    let mut before = SignalSet::EMPTY;
    // SAFETY: both pointers are to live sets of the size that is given.
    unsafe {
        syscall(
            general::__NR_rt_sigprocmask,
            [
                general::SIG_SETMASK as usize,
                &raw const signals as usize,
                &raw mut before as usize,
                size_of::<SignalSet>(),
                0,
                0,
            ],
        )
    }?;
    Ok(before)
}

/// Has `command` start with no signal blocked, whatever this process blocks: the standard library lets it inherit that. Not for the
/// child half of the sandbox, since a command is allocated.
pub fn unblock_signals_of(command: &mut Command) {
    // SAFETY: between fork and exec one system call is made, on values of this closure's own stack.
    unsafe { command.pre_exec(|| Ok(set_blocked_signals(SignalSet::EMPTY).map(drop)?)) };
}

/// The kernel's `struct sigaction`, the same on x86_64 and aarch64.
#[repr(C)]
struct SignalAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: SignalSet,
}

/// Gives `signal` its default disposition: [`rt_sigaction(2)`] with `SIG_DFL`.
///
/// # Errors
/// `EINVAL` for a number that is no signal, and for SIGKILL and SIGSTOP.
///
/// [`rt_sigaction(2)`]: https://man7.org/linux/man-pages/man2/sigaction.2.html
pub fn reset_signal(signal: u32) -> Result<()> {
    set_disposition(signal, SIG_DFL, 0)
}

/// Has the kernel ignore `signal`: [`rt_sigaction(2)`] with `SIG_IGN`.
///
/// # Errors
/// As of [`reset_signal`].
///
/// [`rt_sigaction(2)`]: https://man7.org/linux/man-pages/man2/sigaction.2.html
pub fn ignore_signal(signal: Signal) -> Result<()> {
    set_disposition(signal.as_raw().cast_unsigned(), SIG_IGN, 0)
}

const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;

/// `handler` is one of the two that are no address.
fn set_disposition(signal: u32, handler: usize, flags: usize) -> Result<()> {
    let action = SignalAction { handler, flags, restorer: 0, mask: SignalSet::EMPTY };
    // SAFETY: the action is live and in the kernel's layout, and calls no code of ours.
    unsafe {
        syscall(
            general::__NR_rt_sigaction,
            [signal as usize, &raw const action as usize, 0, size_of::<SignalSet>(), 0, 0],
        )
    }?;
    Ok(())
}

/// Has the kernel reap the children of this process when they end, so that none of them waits for it: [`sigaction(2)`] with
/// `SA_NOCLDWAIT`. Their statuses are lost.
///
/// [`sigaction(2)`]: https://man7.org/linux/man-pages/man2/sigaction.2.html
pub fn let_kernel_reap_children() -> Result<()> {
    const SA_NOCLDWAIT: usize = 2;
    set_disposition(Signal::CHILD.as_raw().cast_unsigned(), SIG_DFL, SA_NOCLDWAIT)
}

/// Whether this process ignores `signal`, as `nohup` and a shell's background jobs make their children do.
pub fn ignores_signal(signal: Signal) -> Result<bool> {
    let mut action = SignalAction { handler: 0, flags: 0, restorer: 0, mask: SignalSet::EMPTY };
    // SAFETY: the action is live, writable and in the kernel's layout.
    unsafe {
        syscall(
            general::__NR_rt_sigaction,
            [signal.as_raw() as usize, 0, &raw mut action as usize, size_of::<SignalSet>(), 0, 0],
        )
    }?;
    Ok(action.handler == SIG_IGN)
}

/// The kernel's siginfo_t, 128 bytes; number, errno and code lead it in every architecture of ours, then, 8-byte aligned, the
/// sender.
type SignalInfo = [i32; 32];

/// The code of a signal that comes with a value, as of [`sigqueue(3)`](https://man7.org/linux/man-pages/man3/sigqueue.3.html).
const SI_QUEUE: i32 = -1;

/// Sends `signal` to a process in a PID namespace below ours, so that it can tell it from what others send:
/// [`pidfd_send_signal(2)`] with the code `SI_QUEUE`.
///
/// [`pidfd_send_signal(2)`]: https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html
pub fn send_signal_as_parent(process: BorrowedFd<'_>, signal: Signal) -> Result<()> {
    let mut info: SignalInfo = [0; 32];
    info[0] = signal.as_raw();
    info[2] = SI_QUEUE;
    // SAFETY: `info` has the 128 bytes of the kernel's siginfo_t.
    unsafe {
        syscall(
            general::__NR_pidfd_send_signal,
            [process.as_raw_fd() as usize, signal.as_raw() as usize, &raw const info as usize, 0, 0, 0],
        )
    }?;
    Ok(())
}

/// Makes an empty session keyring that of this process: [`keyctl(2)`] with `KEYCTL_JOIN_SESSION_KEYRING`.
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings, `EPERM` in some containers.
///
/// [`keyctl(2)`]: https://man7.org/linux/man-pages/man2/keyctl.2.html
pub fn join_new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the null pointer asks for a keyring without a name.
    unsafe { syscall(general::__NR_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0, 0]) }?;
    Ok(())
}

/// Where a signal came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalOrigin {
    /// The kernel itself: a key of the terminal, a hang-up. It reached the whole foreground process group.
    Kernel,
    /// A process outside this PID namespace, with [`send_signal_as_parent`].
    Parent,
    /// Anybody else, or a child that changed state.
    Other,
}

/// A signal that was waited for.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedSignal {
    /// Its number.
    pub number: i32,
    /// Where it came from.
    pub origin: SignalOrigin,
}

/// Waits for any blocked signal: [`rt_sigtimedwait(2)`] without a timeout.
///
/// # Errors
/// `EINTR` when the process was stopped and continued, or traced.
///
/// [`rt_sigtimedwait(2)`]: https://man7.org/linux/man-pages/man2/sigtimedwait.2.html
pub fn wait_for_signal() -> Result<ReceivedSignal> {
    const SI_KERNEL: i32 = 0x80;
    let mut info: SignalInfo = [0; 32];
    let all = SignalSet::ALL;
    // SAFETY: the set is live, and `info` has the 128 bytes of the kernel's siginfo_t.
    let number = unsafe {
        syscall(
            general::__NR_rt_sigtimedwait,
            [&raw const all as usize, &raw mut info as usize, 0, size_of::<SignalSet>(), 0, 0],
        )
    }?;
    let [_, _, code, _, sender, ..] = info;
    let origin = match (code, sender) {
        (SI_KERNEL, _) => SignalOrigin::Kernel,
        (SI_QUEUE, 0) => SignalOrigin::Parent,
        _ => SignalOrigin::Other,
    };
    Ok(ReceivedSignal { number: number as i32, origin })
}

/// A descriptor that becomes readable when one of `signals`, which must be blocked, arrives: [`signalfd(2)`], non-blocking.
///
/// [`signalfd(2)`]: https://man7.org/linux/man-pages/man2/signalfd.2.html
pub fn signalfd(signals: SignalSet) -> Result<OwnedFd> {
    // SAFETY: the set is live and of the size that is given.
    let fd = unsafe {
        syscall(
            general::__NR_signalfd4,
            [
                usize::MAX,
                &raw const signals as usize,
                size_of::<SignalSet>(),
                (general::O_CLOEXEC | general::O_NONBLOCK) as usize,
                0,
                0,
            ],
        )
    }?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Closes a descriptor with the bare system call; dropping it would call libc, which the child may not.
pub fn close(descriptor: OwnedFd) {
    // SAFETY: the descriptor was ours alone, and is nobody's now.
    unsafe { rustix::io::close(descriptor.into_raw_fd()) };
}

/// Closes the descriptors from `first` to `last`, both included, that are open: [`close_range(2)`].
///
/// # Safety
/// Nothing may use a descriptor of the range afterwards, nor close it again.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
///
/// [`close_range(2)`]: https://man7.org/linux/man-pages/man2/close_range.2.html
pub unsafe fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no pointer is given; the caller answers for the descriptors.
    unsafe { syscall(general::__NR_close_range, [first as usize, last as usize, 0, 0, 0, 0]) }?;
    Ok(())
}

/// No address space randomisation: a flag of [`set_personality`], which linux-raw-sys does not have.
pub const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;

/// The execution domain in which the kernel calls itself a 32-bit one.
pub const PER_LINUX32: u32 = 0x0008;

/// The flag of [`set_personality`] with which the kernel calls itself 2.6, for programs that only expect two numbers there.
pub const UNAME26: u32 = 0x0002_0000;

/// Sets the execution domain and its flags, such as `ADDR_NO_RANDOMIZE`: [`personality(2)`].
///
/// [`personality(2)`]: https://man7.org/linux/man-pages/man2/personality.2.html
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: no pointer is given.
    unsafe { syscall(general::__NR_personality, [persona as usize, 0, 0, 0, 0, 0]) }?;
    Ok(())
}

/// Makes the mount at `target`, and with `recursive` every mount below it, read-only: [`mount_setattr(2)`].
///
/// Unlike a remount it names no other flag, so flags that a less privileged mount namespace has locked stay as they are.
///
/// # Errors
/// `ENOSYS` before Linux 5.12; `EINVAL` where `target` is not the root of a mount.
///
/// [`mount_setattr(2)`]: https://man7.org/linux/man-pages/man2/mount_setattr.2.html
pub fn make_mount_read_only(target: &CStr, recursive: bool) -> Result<()> {
    let attributes = general::mount_attr {
        attr_set: u64::from(general::MOUNT_ATTR_RDONLY),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { general::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends in a NUL byte and the attributes are live and of the size that is given.
    unsafe {
        syscall(
            general::__NR_mount_setattr,
            [
                general::AT_FDCWD as usize,
                target.as_ptr() as usize,
                flags as usize,
                &raw const attributes as usize,
                size_of::<general::mount_attr>(),
                0,
            ],
        )
    }?;
    Ok(())
}

/// Shows the files of the detached mount `mount` with other owners, as `user_namespace` maps them, and without set-id bits and devices;
/// with `read_only` nothing in it can be changed: [`mount_setattr(2)`].
///
/// # Errors
/// `EINVAL` where the file system has no id-mapped mounts, `EPERM` for who is not the root of its user namespace, `ENOSYS` before Linux
/// 5.12.
///
/// [`mount_setattr(2)`]: https://man7.org/linux/man-pages/man2/mount_setattr.2.html
pub fn map_ids_of_mount(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let access = if read_only { general::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = general::mount_attr {
        attr_set: u64::from(
            general::MOUNT_ATTR_IDMAP | general::MOUNT_ATTR_NOSUID | general::MOUNT_ATTR_NODEV | access,
        ),
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path ends in a NUL byte and the attributes are live and of the size that is given.
    unsafe {
        syscall(
            general::__NR_mount_setattr,
            [
                mount.as_raw_fd() as usize,
                c"".as_ptr() as usize,
                general::AT_EMPTY_PATH as usize,
                &raw const attributes as usize,
                size_of::<general::mount_attr>(),
                0,
            ],
        )
    }?;
    Ok(())
}

/// Sets the flags (`IFF_UP` and so on) of the network interface `name`: `SIOCSIFFLAGS` of [`netdevice(7)`].
///
/// # Errors
/// `ENAMETOOLONG` for a name of more than 15 bytes, `ENODEV` where there is no such interface, `EPERM` without
/// `CAP_NET_ADMIN` over the socket's network namespace.
///
/// [`netdevice(7)`]: https://man7.org/linux/man-pages/man7/netdevice.7.html
pub fn set_interface_flags(socket: BorrowedFd<'_>, name: &CStr, flags: u16) -> Result<()> {
    // SAFETY: all fields are integers, addresses or unions of those: zero is a value of each.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the union's members all start at its first byte; as bytes it can always be written.
    let name_field = unsafe { &mut request.ifr_ifrn.ifrn_name };
    let bytes = name.to_bytes();
    if bytes.len() >= name_field.len() {
        return Err(Errno::NAMETOOLONG);
    }
    for (to, from) in name_field.iter_mut().zip(bytes) {
        *to = from.cast_signed() as std::ffi::c_char;
    }
    request.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is live.
    unsafe {
        syscall(
            general::__NR_ioctl,
            [socket.as_fd().as_raw_fd() as usize, SIOCSIFFLAGS as usize, &raw const request as usize, 0, 0, 0],
        )
    }?;
    Ok(())
}

/// The network namespace that `socket` is in, as a descriptor for [`setns(2)`]: `SIOCGSKNS`.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over that namespace.
///
/// [`setns(2)`]: https://man7.org/linux/man-pages/man2/setns.2.html
pub fn network_namespace_of(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    // linux-raw-sys does not have it; asm-generic/sockios.h does, for every architecture.
    const SIOCGSKNS: usize = 0x894c;
    // SAFETY: SIOCGSKNS takes no pointer.
    let descriptor =
        unsafe { syscall(general::__NR_ioctl, [socket.as_fd().as_raw_fd() as usize, SIOCGSKNS, 0, 0, 0, 0]) }?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Leaves the namespaces of these kinds (`CLONE_NEW*`) for new ones: [`unshare(2)`].
///
/// # Errors
/// As of [`clone(2)`].
///
/// [`unshare(2)`]: https://man7.org/linux/man-pages/man2/unshare.2.html
/// [`clone(2)`]: https://man7.org/linux/man-pages/man2/clone.2.html
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    // SAFETY: no pointer is given, and no flag but those of namespaces: nothing that Rust relies on is unshared.
    unsafe { syscall(general::__NR_unshare, [namespaces.bits() as usize, 0, 0, 0, 0, 0]) }?;
    Ok(())
}

/// The number of the terminal that a descriptor leads to, the same whether it was opened by its name or as `/dev/tty`:
/// `TIOCGDEV` of [`ioctl_tty(2)`].
///
/// # Errors
/// `ENOTTY` where it leads to something else.
///
/// [`ioctl_tty(2)`]: https://man7.org/linux/man-pages/man2/ioctl_tty.2.html
pub fn terminal_number(descriptor: BorrowedFd<'_>) -> Result<u32> {
    let mut number = 0u32;
    // SAFETY: TIOCGDEV writes one `unsigned int`, which is live and writable.
    unsafe {
        syscall(
            general::__NR_ioctl,
            [descriptor.as_raw_fd() as usize, TIOCGDEV as usize, &raw mut number as usize, 0, 0, 0],
        )
    }?;
    Ok(number)
}

/// One instruction of classic BPF: the kernel's `struct sock_filter`, which linux-raw-sys has without a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BpfInstruction {
    /// What it does.
    pub code: u16,
    /// How many instructions a jump leaves out where its condition holds.
    pub skip_if_true: u8,
    /// And where it does not.
    pub skip_if_false: u8,
    /// What it is done with.
    pub operand: u32,
}

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct BpfProgram {
    length: u16,
    instructions: *const BpfInstruction,
}

/// Lets `program` decide about every system call of this thread from now on, and of all that it starts: [`seccomp(2)`] with
/// `SECCOMP_SET_MODE_FILTER`. No flag is set: on kernels that restrict speculation below a filter, they do so.
///
/// # Errors
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`; `EINVAL` for a program that the kernel does not take, or where it has no
/// filters.
///
/// [`seccomp(2)`]: https://man7.org/linux/man-pages/man2/seccomp.2.html
pub fn filter_system_calls(program: &[BpfInstruction]) -> Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = BpfProgram { length, instructions: program.as_ptr() };
    // SAFETY: the program and its instructions are live, of the length that is given and in the kernel's layout; it copies them.
    unsafe {
        syscall(general::__NR_seccomp, [SECCOMP_SET_MODE_FILTER as usize, 0, &raw const program as usize, 0, 0, 0])
    }?;
    Ok(())
}

/// Whether the kernel takes filters that answer with an error: [`seccomp(2)`] with `SECCOMP_GET_ACTION_AVAIL`.
///
/// # Errors
/// `ENOSYS` or `EINVAL` where it was built without them, `EOPNOTSUPP` where it does not know that answer.
///
/// [`seccomp(2)`]: https://man7.org/linux/man-pages/man2/seccomp.2.html
pub fn can_filter_system_calls() -> Result<()> {
    let action = SECCOMP_RET_ERRNO;
    // SAFETY: the action is live and of the size that the kernel reads.
    unsafe {
        syscall(general::__NR_seccomp, [SECCOMP_GET_ACTION_AVAIL as usize, 0, &raw const action as usize, 0, 0, 0])
    }?;
    Ok(())
}

/// The version of landlock's interface: [`landlock_create_ruleset(2)`] with `LANDLOCK_CREATE_RULESET_VERSION`.
///
/// # Errors
/// `ENOSYS` before Linux 5.13 or where it was not built in, `EOPNOTSUPP` where it is switched off.
///
/// [`landlock_create_ruleset(2)`]: https://man7.org/linux/man-pages/man2/landlock_create_ruleset.2.html
pub fn landlock_version() -> Result<u32> {
    let flags = LANDLOCK_CREATE_RULESET_VERSION as usize;
    // SAFETY: for this question the kernel wants a null pointer and no size.
    let version = unsafe { syscall(general::__NR_landlock_create_ruleset, [0, 0, flags, 0, 0, 0]) }?;
    Ok(version as u32)
}

/// Makes a set of restrictions: those `LANDLOCK_SCOPE_*` flags, and none of files or ports: [`landlock_create_ruleset(2)`].
///
/// # Errors
/// `ENOSYS` before Linux 5.13, `EOPNOTSUPP` where landlock was not switched on, `E2BIG` before Linux 6.12, the first to have scopes.
///
/// [`landlock_create_ruleset(2)`]: https://man7.org/linux/man-pages/man2/landlock_create_ruleset.2.html
pub fn landlock_create_ruleset(scopes: u32) -> Result<OwnedFd> {
    let attributes = landlock_ruleset_attr { handled_access_fs: 0, handled_access_net: 0, scoped: u64::from(scopes) };
    // SAFETY: the attributes are live and of the size that is given.
    let fd = unsafe {
        syscall(
            general::__NR_landlock_create_ruleset,
            [&raw const attributes as usize, size_of::<landlock_ruleset_attr>(), 0, 0, 0, 0],
        )
    }?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Restricts this thread, and all that it starts, from now on: [`landlock_restrict_self(2)`].
///
/// # Errors
/// `EPERM` without `no_new_privs` or `CAP_SYS_ADMIN`, `E2BIG` below too many others.
///
/// [`landlock_restrict_self(2)`]: https://man7.org/linux/man-pages/man2/landlock_restrict_self.2.html
pub fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointer is given.
    unsafe { syscall(general::__NR_landlock_restrict_self, [ruleset.as_raw_fd() as usize, 0, 0, 0, 0, 0]) }?;
    Ok(())
}

/// Executes `path` in place of this process: [`execve(2)`]. Returns only when it could not.
///
/// # Safety
/// `argv` and `envp` must point to arrays of pointers to NUL-terminated strings, each array ended by a null pointer.
///
/// [`execve(2)`]: https://man7.org/linux/man-pages/man2/execve.2.html
pub unsafe fn execve(path: &CStr, argv: *const *const u8, envp: *const *const u8) -> Errno {
    // SAFETY: `path` ends in a NUL byte; the caller answers for the arrays.
    let result =
        unsafe { syscall(general::__NR_execve, [path.as_ptr() as usize, argv as usize, envp as usize, 0, 0, 0]) };
    result.err().unwrap_or(Errno::IO)
}

/// Sends SIGKILL to every process that this one may signal, itself and PID 1 left out: [`kill(2)`] with -1.
///
/// [`kill(2)`]: https://man7.org/linux/man-pages/man2/kill.2.html
pub fn kill_all_others() {
    let signal = Signal::KILL.as_raw() as usize;
    // SAFETY: no pointer is given. An error says that there is nobody.
    let _ = unsafe { syscall(general::__NR_kill, [usize::MAX, signal, 0, 0, 0, 0]) };
}

/// Ends this process at once, with no destructor and no buffer written: [`exit_group(2)`].
///
/// [`exit_group(2)`]: https://man7.org/linux/man-pages/man2/exit_group.2.html
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no pointer is given. The call does not return; the loop tells the compiler so.
        let _ = unsafe { syscall(general::__NR_exit_group, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Makes a system call with up to six arguments, with nothing between us and the kernel.
///
/// # Safety
/// As the system call demands of its arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: u32, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the kernel's calling convention: number in rax, arguments in rdi, rsi, rdx, r10, r8 and r9; rcx and r11 are
    // overwritten. The caller answers for what the call does to memory.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    to_result(result)
}

/// Makes a system call with up to six arguments, with nothing between us and the kernel.
///
/// # Safety
/// As the system call demands of its arguments.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: u32, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the kernel's calling convention: number in x8, arguments in x0 to x5, the answer in x0. The caller answers for
    // what the call does to memory.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    to_result(result)
}

/// The kernel answers an error as its negative number, down to -4095.
pub(crate) fn to_result(answer: isize) -> Result<usize> {
    match answer {
        -4095..=-1 => Err(Errno::from_raw_os_error(-(answer as i32))),
        _ => Ok(answer.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_below_zero_is_an_errno_and_an_address_is_not() {
        assert_eq!(to_result(-1), Err(Errno::PERM));
        assert_eq!(to_result(-38), Err(Errno::NOSYS));
        assert_eq!(to_result(0), Ok(0));
        assert_eq!(to_result(-4096), Ok(usize::MAX - 4095));
    }

    #[test]
    fn a_signal_set_has_bit_n_minus_one_for_signal_n() {
        assert_eq!(SignalSet::of(&[Signal::HUP, Signal::TERM]), SignalSet(0x4001));
    }
}
