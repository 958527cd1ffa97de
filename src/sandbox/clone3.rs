//! [`clone3(2)`]: the only way in which this program makes a process.
//!
//! One call creates a process inside its new namespaces and returns a pidfd, with no libc at-fork handler between. rustix does not
//! wrap it, so the call is made here for x86_64 and aarch64.
//!
//! [`clone3(2)`]: https://man7.org/linux/man-pages/man2/clone3.2.html

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;

use linux_raw_sys::general::{self, clone_args};
use rustix::event::pause;
use rustix::io::{Result, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, chdir, getpid, getppid, pidfd_send_signal,
    set_parent_process_death_signal, setpgid, waitid,
};
use rustix::stdio::{dup2_stdin, dup2_stdout};

use crate::plan::Namespaces;
use crate::sys::{self, SignalSet, to_result};

/// A child process and the descriptor to wait for it.
#[derive(Debug)]
pub struct Child {
    /// Its number in our PID namespace.
    pub pid: Pid,
    /// Refers to this very process, never to another that got its number.
    pub pidfd: OwnedFd,
}

impl Child {
    /// Waits for its end, and reaps it: [`waitid(2)`]. Returns how it ended.
    ///
    /// # Errors
    /// `ECHILD` if it has been reaped before.
    ///
    /// [`waitid(2)`]: https://man7.org/linux/man-pages/man2/waitid.2.html
    pub fn wait(&self) -> Result<Option<WaitIdStatus>> {
        let pidfd = WaitId::PidFd(self.pidfd.as_fd());
        retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED))
    }

    /// Kills it, waits for its end, and reaps it. Errors would only say that there is nothing to do any more.
    pub fn end(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.wait();
    }
}

/// Creates a child in new namespaces, on a copy of this process's memory, that runs `main` and never comes back.
///
/// # Safety
/// Of all threads of this process only the calling one exists in the child: `main` may not allocate, take a lock or call
/// libc, since a lock that another thread held at this moment is never released there.
///
/// # Errors
/// `EPERM` and `ENOSPC` where the machine refuses namespaces, `ENOSYS` before Linux 5.3 and in some containers, `EAGAIN` at
/// the limit of processes.
pub unsafe fn spawn_in(
    namespaces: Namespaces,
    main: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<Child> {
    let mut pidfd = -1i32;
    let arguments = clone_args {
        flags: namespaces.bits() | u64::from(general::CLONE_PIDFD),
        pidfd: &raw mut pidfd as u64,
        ..no_arguments()
    };
    // SAFETY: without CLONE_VM the child has its own copy of the stack, so the same stack pointer serves both; the caller
    // answers for `main`.
    let pid = unsafe { clone3(&arguments, main, argument) }?;
    // SAFETY: the kernel stored a new descriptor there, for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Creates a child in new namespaces that does nothing until it is ended: somebody to hold them for a moment.
///
/// # Errors
/// As of [`spawn_in`].
pub(crate) fn spawn_idle(namespaces: Namespaces) -> Result<Child> {
    let mut parent = getpid();
    // SAFETY: `idle` makes system calls only, and reads its own copy of the number.
    unsafe { spawn_in(namespaces, idle, (&raw mut parent).cast()) }
}

extern "C" fn idle(parent: *mut c_void) -> ! {
    // SAFETY: `spawn_idle` passed it, and it lives on in this process's copy of the memory.
    let parent = unsafe { *parent.cast::<Pid>() };
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || getppid() != Some(parent) {
        sys::exit(1);
    }
    loop {
        pause();
    }
}

/// Creates a child in new namespaces that shares this process's memory and descriptors and runs `main` on `stack`, at the same time
/// as this thread goes on.
///
/// # Safety
/// `main` may make system calls only: it has this thread's thread-local storage. The stack and what `argument` points to must
/// stay until the child has been reaped, and whatever both use must be made for two threads.
///
/// # Errors
/// As of [`spawn_in`].
pub(super) unsafe fn spawn_sharing_all(
    namespaces: Namespaces,
    stack: &mut [MaybeUninit<u8>],
    main: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<Child> {
    let mut pidfd = -1i32;
    let (stack, stack_size) = aligned(stack);
    let arguments = clone_args {
        flags: namespaces.bits() | u64::from(general::CLONE_VM | general::CLONE_FILES | general::CLONE_PIDFD),
        pidfd: &raw mut pidfd as u64,
        stack,
        stack_size,
        ..no_arguments()
    };
    // SAFETY: the stack is the child's alone, and aligned; the caller answers for the rest.
    let pid = unsafe { clone3(&arguments, main, argument) }?;
    // SAFETY: the kernel stored a new descriptor there, for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Creates, from a process that was created so, another that shares the memory, and has a copy of the descriptors, in the namespaces that it
/// is in: a child of its parent's, whose pidfd and then number the kernel stores, even if the calling process is killed at that moment.
/// `stack` is the start and size of memory that nobody else uses.
///
/// # Safety
/// As for [`spawn_sharing_all`].
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`, `EMFILE`.
pub(super) unsafe fn spawn_helper(
    (stack, stack_size): (u64, u64),
    pidfd: &AtomicI32,
    number: &AtomicI32,
    main: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<()> {
    let flags = general::CLONE_VM | general::CLONE_PARENT | general::CLONE_PIDFD | general::CLONE_PARENT_SETTID;
    let arguments = clone_args {
        flags: u64::from(flags),
        pidfd: pidfd.as_ptr() as u64,
        parent_tid: number.as_ptr() as u64,
        stack,
        stack_size,
        // It is that of this process, and may not be given again.
        exit_signal: 0,
        ..no_arguments()
    };
    // SAFETY: the caller answers for all.
    unsafe { clone3(&arguments, main, argument) }.map(|_| ())
}

/// Creates a child of this process's parent in new namespaces, on a copy of this process's memory. It starts in the cgroup v2 whose
/// directory `cgroup` is, or in ours; a new cgroup namespace has it for its root. Before it runs the kernel stores
/// its pidfd, a descriptor of this process, and then its number, even if this process is killed at that moment.
///
/// # Safety
/// As for [`spawn_in`].
///
/// # Errors
/// As of [`spawn_in`]. With a cgroup also `EACCES` where the caller may not move a process into it, and `EINVAL` before Linux 5.7.
pub(super) unsafe fn spawn_sibling(
    namespaces: Namespaces,
    cgroup: Option<RawFd>,
    pidfd: &AtomicI32,
    number: &AtomicI32,
    main: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<()> {
    let flags = general::CLONE_PARENT | general::CLONE_PIDFD | general::CLONE_PARENT_SETTID;
    let arguments = clone_args {
        flags: namespaces.bits() | u64::from(flags) | cgroup.map_or(0, |_| general::CLONE_INTO_CGROUP),
        cgroup: cgroup.map_or(0, |cgroup| cgroup as u64),
        pidfd: pidfd.as_ptr() as u64,
        parent_tid: number.as_ptr() as u64,
        // It is that of this process, and may not be given again.
        exit_signal: 0,
        ..no_arguments()
    };
    // SAFETY: without CLONE_VM the child has its own copy of the stack, so the same stack pointer serves both; the caller
    // answers for `main`.
    unsafe { clone3(&arguments, main, argument) }.map(|_| ())
}

/// Creates a child that shares this process's memory and runs `main` on `stack`, while this thread stands still until the
/// child has executed a program or ended, as [`vfork(2)`] does: no page table is copied.
///
/// # Safety
/// As for [`spawn_in`]; what `main` writes is seen here afterwards. The stack must have room for `main`, and 32 bytes more.
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`.
///
/// [`vfork(2)`]: https://man7.org/linux/man-pages/man2/vfork.2.html
pub(super) unsafe fn spawn_sharing_memory(
    stack: &mut [MaybeUninit<u8>],
    main: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<Pid> {
    let (stack, stack_size) = aligned(stack);
    let arguments =
        clone_args { flags: u64::from(general::CLONE_VM | general::CLONE_VFORK), stack, stack_size, ..no_arguments() };
    // SAFETY: the stack is ours, aligned, and not used by anyone while this thread waits; the caller answers for `main`.
    unsafe { clone3(&arguments, main, argument) }
}

/// Start and size of a stack, as `clone3` wants them. The ABIs of both architectures want 16-byte alignment at a call; the kernel adds the
/// size to the start.
pub(super) fn aligned(stack: &mut [MaybeUninit<u8>]) -> (u64, u64) {
    let base = stack.as_mut_ptr() as usize;
    let start = (base + 15) & !15;
    let size = (stack.len() - (start - base)) & !15;
    (start as u64, size as u64)
}

/// A process beside this one that outlives its sudden end: on a copy of this process's memory, with two descriptors of it as 0 and 1
/// and no other, in a process group of its own, and deaf to every signal but SIGKILL. It runs `main` and ends. `main` makes system
/// calls only: no allocation, no lock, no libc.
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`.
pub(crate) fn spawn_beside<T>(descriptors: [BorrowedFd<'_>; 2], task: &T, main: fn(&T)) -> Result<Child> {
    let mut beside = Beside { descriptors, task, main };
    let mut pidfd = -1i32;
    let arguments =
        clone_args { flags: u64::from(general::CLONE_PIDFD), pidfd: &raw mut pidfd as u64, ..no_arguments() };
    // SAFETY: as in `spawn_in`; `run_beside` makes system calls only if `main` does, and the child has its own copy of `beside`.
    let pid = unsafe { clone3(&arguments, run_beside::<T>, (&raw mut beside).cast()) }?;
    // SAFETY: the kernel stored a new descriptor there, for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // From here, so that it is done when this returns: what is sent to our group does not reach it any more.
    setpgid(Some(pid), Some(pid))?;
    Ok(Child { pid, pidfd })
}

struct Beside<'a, T> {
    descriptors: [BorrowedFd<'a>; 2],
    task: &'a T,
    main: fn(&T),
}

extern "C" fn run_beside<T>(argument: *mut c_void) -> ! {
    // SAFETY: `spawn_beside` passed it, and it lives on in this process's copy of the memory.
    let beside = unsafe { &*argument.cast::<Beside<'_, T>>() };
    let _ = sys::set_blocked_signals(SignalSet::ALL);
    let _ = chdir(c"/");
    let [first, second] = beside.descriptors;
    if dup2_stdin(first).and(dup2_stdout(second)).is_err() {
        sys::exit(1);
    }
    // SAFETY: this process uses no other descriptor.
    let _ = unsafe { sys::close_range(2, u32::MAX) };
    (beside.main)(beside.task);
    sys::exit(0)
}

fn no_arguments() -> clone_args {
    clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: Signal::CHILD.as_raw() as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    }
}

/// The call itself. In the child nothing of this function's frame is used again: it calls `main` at once.
///
/// # Safety
/// As for [`spawn_in`]; a stack in `arguments` must be valid.
unsafe fn clone3(arguments: &clone_args, main: extern "C" fn(*mut c_void) -> !, argument: *mut c_void) -> Result<Pid> {
    let answer: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: clone3 in the kernel's calling convention. The child goes on with the same registers, but for rax, rcx and r11,
    // and perhaps a new stack; r12 and r13 hold the function and its argument there. A frame pointer of zero ends a
    // debugger's walk. `main` does not return.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "and rsp, -16",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") general::__NR_clone3 as usize => answer,
            in("rdi") arguments,
            in("rsi") size_of::<clone_args>(),
            in("r12") main,
            in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: clone3 in the kernel's calling convention: number in x8, arguments in x0 and x1, the answer in x0. The child goes
    // on with the same registers, but for x0, and perhaps a new stack, which is 16-byte aligned as the ABI keeps it; x20
    // and x21 hold the function and its argument there. A frame pointer and link register of zero end a debugger's walk.
    // `main` does not return.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            in("x8") general::__NR_clone3 as usize,
            inlateout("x0") arguments => answer,
            in("x1") size_of::<clone_args>(),
            in("x20") main,
            in("x21") argument,
        );
    }
    let pid = to_result(answer)?;
    // SAFETY: the kernel's answer above zero is the number of a process.
    Ok(unsafe { Pid::from_raw_unchecked(pid as i32) })
}
