//! The child's half: obeys the plan, executes the command and stays as the sandbox's first process.
//!
//! It runs on a copy of the parent's memory in which only this thread exists. So it makes system calls and nothing else: no
//! allocation, no formatting, no lock, no panic, no libc, no destructor of the standard library. `tests/child_rules.rs` aborts
//! the child at its first allocation.

use std::ffi::{CStr, CString, c_void};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg};
use rustix::process::{self, DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets, Gid, Uid};

use super::clone3::{self, Child};
use super::loopback;
use crate::plan::{Access, Command, Plan, SANDBOX_GID, SANDBOX_UID, Step};
use crate::sys::{self, SignalOrigin, SignalSet};

/// Room for the few frames between `clone3` and `execve`.
const COMMAND_STACK: usize = 16 << 10;

/// Exit status of a child that could not start; the parent knows more from the report.
const FAILED: i32 = 125;

/// Creates the child that carries out `plan`, talking to the parent through its end of the channel; it also inherits the parent's.
///
/// # Errors
/// As of [`clone3::spawn_in`].
pub(super) fn spawn(plan: &Plan, channel: &OwnedFd, parents_channel: &OwnedFd) -> Result<Child> {
    let mut task = Task::new(plan, channel.as_raw_fd(), parents_channel.as_raw_fd());
    // SAFETY: `main` makes system calls on what `task` holds and nothing else. The child has its own copy of `task`, whatever
    // becomes of this one.
    unsafe { clone3::spawn_in(plan.namespaces, main, (&raw mut task).cast()) }
}

/// What the child works on, made by the parent: the plan, and the command's strings in the form of `execve`.
struct Task<'a> {
    steps: &'a [Step],
    program: &'a CStr,
    argv: Vec<*const u8>,
    envp: Vec<*const u8>,
    channel: RawFd,
    parents_channel: RawFd,
    stack: Vec<u8>,
}

impl<'a> Task<'a> {
    fn new(plan: &'a Plan, channel: RawFd, parents_channel: RawFd) -> Self {
        let Command { program, arguments, environment } = &plan.command;
        Self {
            steps: &plan.steps,
            program,
            argv: null_terminated(arguments),
            envp: null_terminated(environment),
            channel,
            parents_channel,
            stack: vec![0; COMMAND_STACK],
        }
    }
}

fn null_terminated(strings: &[CString]) -> Vec<*const u8> {
    let pointers = strings.iter().map(|string| string.as_ptr().cast());
    pointers.chain([ptr::null()]).collect()
}

/// Where the child failed and what the kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The number of the step; the number of steps for the execution of the command.
    pub step: usize,
    /// The kernel's answer.
    pub errno: Errno,
}

/// What the child tells the parent. If the channel ends before the last message, the child was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The command could not be executed. The last message.
    Failed(Report),
    /// With it comes a socket in the sandbox's network namespace, for the parent to bring `lo` up.
    Network,
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
    fn to_bytes(self) -> [u8; Self::SIZE] {
        let [kind, first, second] = match self {
            Self::Failed(Report { step, errno }) => [0, step as u32, errno.raw_os_error().cast_unsigned()],
            Self::Network => [1, 0, 0],
            Self::Started => [2, 0, 0],
            Self::Ended(status) => [3, u32::from(status), 0],
        };
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
            (kind.to_ne_bytes(), first.to_ne_bytes(), second.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// As it came through the channel.
    pub(super) fn from_bytes([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; Self::SIZE]) -> Self {
        let number = |bytes| u32::from_ne_bytes(bytes);
        let (first, second) = (number([e, f, g, h]), number([i, j, k, l]));
        match number([a, b, c, d]) {
            0 => Self::Failed(Report { step: first as usize, errno: Errno::from_raw_os_error(second.cast_signed()) }),
            1 => Self::Network,
            2 => Self::Started,
            _ => Self::Ended(first as u8),
        }
    }
}

/// The child's first and only function; `argument` is its [`Task`].
extern "C" fn main(argument: *mut c_void) -> ! {
    // SAFETY: the parent passed a task, which lives on in the child's copy of the parent's memory; nobody else is here.
    let task = unsafe { &mut *argument.cast::<Task>() };
    // SAFETY: the child has no use for its copy of the parent's end, and must not keep it open: its end of file tells that the
    // parent is gone.
    unsafe { rustix::io::close(task.parents_channel) };
    let outcome = set_up(task);
    // SAFETY: the channel was opened for this process, and nobody closes it before.
    let channel = unsafe { OwnedFd::from_raw_fd(task.channel) };
    match outcome {
        Ok(command) => {
            tell(&channel, Message::Started);
            let status = serve_as_init(command);
            tell(&channel, Message::Ended(status));
            sys::exit(0)
        }
        Err(report) => {
            tell(&channel, Message::Failed(report));
            sys::exit(FAILED)
        }
    }
}

/// If nobody hears it, nobody is there to act on it.
fn tell(channel: &OwnedFd, message: Message) {
    let _ = send(channel, &message.to_bytes(), SendFlags::NOSIGNAL);
}

fn set_up(task: &mut Task<'_>) -> std::result::Result<Pid, Report> {
    for (step, what) in task.steps.iter().enumerate() {
        apply(what, task.channel).map_err(|errno| Report { step, errno })?;
    }
    execute(task).map_err(|errno| Report { step: task.steps.len(), errno })
}

fn apply(step: &Step, channel: RawFd) -> Result<()> {
    // SAFETY: the channel stays open until the command runs.
    let parent = unsafe { BorrowedFd::borrow_raw(channel) };
    match step {
        Step::DieWithParent => die_with_parent(parent),
        Step::AwaitIdMaps | Step::AwaitNetwork => await_parent(parent),
        Step::BecomeBuilder => become_builder(),
        Step::HandOverNetwork => hand_over_network(parent),
        Step::SetHostName(name) => rustix::system::sethostname(name.to_bytes()),
        Step::SetDomainName(name) => rustix::system::setdomainname(name.to_bytes()),
        Step::MakeMountsPrivate => {
            mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        }
        Step::SetUmask(mask) => {
            process::umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
        Step::Mount { kind, target, options } => {
            let (kind, target) = (kind.as_c_str(), target.as_c_str());
            mount::mount(kind, target, kind, MountFlags::empty(), options.as_c_str())
        }

        Step::Bind { source, target, recursive, access } => bind(source, target, *recursive, *access),
        Step::MakeDirectory { path, mode } => rustix::fs::mkdirat(CWD, path.as_c_str(), Mode::from_raw_mode(*mode)),
        Step::MakeFile { path, mode, content } => make_file(path, Mode::from_raw_mode(*mode), content),
        Step::MakeSymlink { link, path } => rustix::fs::symlinkat(link.as_c_str(), CWD, path.as_c_str()),
        Step::ChangeDirectory(path) => process::chdir(path.as_c_str()),
        Step::PivotRoot => pivot_root(),
        Step::ForbidCoreDumps => {
            let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
            setrlimit(Resource::Core, limit)
        }
        Step::SetPersonality(persona) => sys::set_personality(*persona),
        Step::ForbidUserNamespaces => write_file(c"proc/sys/user/max_user_namespaces", b"0"),
        Step::LeaveSessionKeyring => leave_session_keyring(),
        Step::ForbidNewPrivileges => thread::set_no_new_privs(true),
        Step::ResetSignals => reset_signals(),
        Step::HideFromCommand => process::set_dumpable_behavior(DumpableBehavior::NotDumpable),
        Step::DropCapabilities => drop_capabilities(),
        Step::CloseDescriptors => close_descriptors(channel),
    }
}

/// The parent may have died before the signal was asked for: then the channel is at its end.
fn die_with_parent(parent: BorrowedFd<'_>) -> Result<()> {
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    match recv(parent, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => sys::exit(FAILED),
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The parent sends a byte when it has done its part.
fn await_parent(parent: BorrowedFd<'_>) -> Result<()> {
    loop {
        match recv(parent, &mut [0; 1], RecvFlags::empty()) {
            Ok((0, _)) => sys::exit(FAILED),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn hand_over_network(parent: BorrowedFd<'_>) -> Result<()> {
    let socket = loopback::socket()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    let message = Message::Network.to_bytes();
    let sent = sendmsg(parent, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL);
    sys::close(socket);
    sent.map(|_| ())
}

fn become_builder() -> Result<()> {
    let gid = Gid::from_raw(SANDBOX_GID);
    thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(SANDBOX_UID);
    thread::set_thread_res_uid(uid, uid, uid)
}

fn bind(source: &CStr, target: &CStr, recursive: bool, access: Access) -> Result<()> {
    if recursive {
        mount::mount_bind_recursive(source, target)?;
    } else {
        mount::mount_bind(source, target)?;
    }
    match access {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => sys::make_mount_read_only(target, recursive),
    }
}

fn make_file(path: &CStr, mode: Mode, content: &[u8]) -> Result<()> {
    if content.is_empty() {
        return rustix::fs::mknodat(CWD, path, FileType::RegularFile, mode, 0);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, mode)?;
    // The files are small and on a tmpfs: a write that is not whole has no room.
    let written = rustix::io::write(&file, content);
    sys::close(file);
    if written? == content.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

fn write_file(path: &CStr, content: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(&file, content);
    sys::close(file);
    written.map(|_| ())
}

fn leave_session_keyring() -> Result<()> {
    match sys::join_new_session_keyring() {
        // A kernel without keyrings, or a container that forbids them: then there is nothing to leave.
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// The working directory becomes the root; the old root, then on top of it, is detached; `chroot` makes the change whole.
fn pivot_root() -> Result<()> {
    process::pivot_root(c".", c".")?;
    mount::unmount(c".", UnmountFlags::DETACH)?;
    process::chroot(c".")
}

/// From here on every signal waits for the init to take it; the command starts with all of them unblocked.
fn reset_signals() -> Result<()> {
    sys::set_blocked_signals(SignalSet::ALL)?;
    for signal in 1..=64 {
        match sys::reset_signal(signal) {
            // SIGKILL and SIGSTOP are always at their default.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn drop_capabilities() -> Result<()> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    thread::set_capabilities(None, sets)
}

fn close_descriptors(channel: RawFd) -> Result<()> {
    let channel = channel.cast_unsigned();
    // SAFETY: the child uses no descriptor but the standard ones and the channel.
    unsafe { sys::close_range(3, channel.saturating_sub(1)) }?;
    // SAFETY: as above.
    unsafe { sys::close_range(channel.saturating_add(1), u32::MAX) }
}

/// What the process that becomes the command needs, and what it answers if it cannot.
struct Execution<'a> {
    program: &'a CStr,
    argv: *const *const u8,
    envp: *const *const u8,
    failure: Option<Errno>,
}

/// Executes the command in a new process, which shares this one's memory until then.
fn execute(task: &mut Task<'_>) -> Result<Pid> {
    let mut execution =
        Execution { program: task.program, argv: task.argv.as_ptr(), envp: task.envp.as_ptr(), failure: None };
    let argument = (&raw mut execution).cast();
    // SAFETY: `become_command` makes system calls only. `execution` outlives it, since this thread waits until it has
    // executed the command or ended.
    let pid = unsafe { clone3::spawn_sharing_memory(&mut task.stack, become_command, argument) }?;
    // SAFETY: `execution` is live; the read is volatile since another process wrote it.
    match unsafe { ptr::read_volatile(&raw const execution.failure) } {
        Some(errno) => Err(errno),
        None => Ok(pid),
    }
}

extern "C" fn become_command(argument: *mut c_void) -> ! {
    // SAFETY: `execute` passed an `Execution`, waits, and touches it only afterwards.
    let execution = unsafe { &mut *argument.cast::<Execution>() };
    let errno = match sys::set_blocked_signals(SignalSet::EMPTY) {
        // SAFETY: the parent made both arrays, null-terminated, of strings that live as long as the plan.
        Ok(_) => unsafe { sys::execve(execution.program, execution.argv, execution.envp) },
        Err(errno) => errno,
    };
    execution.failure = Some(errno);
    sys::exit(FAILED)
}

/// PID 1 of the sandbox: passes on what the parent signals and reaps what the command leaves. With the command everything else
/// in the sandbox ends. Returns the command's exit status, or 128+n for the signal n, when no other process is left.
fn serve_as_init(command: Pid) -> u8 {
    loop {
        let Ok(received) = sys::wait_for_signal() else {
            continue;
        };
        if received.number == Signal::CHILD.as_raw() {
            if let Some(status) = reap(command) {
                end_all_others();
                return status;
            }
        } else if is_for_command(received.origin, command)
            && let Some(signal) = Signal::from_named_raw(received.number)
        {
            // It may have ended in this moment; SIGCHLD tells.
            let _ = process::kill_process(command, signal);
        }
    }
}

/// Whether a signal that has reached the first process is to be passed on.
fn is_for_command(origin: SignalOrigin, command: Pid) -> bool {
    match origin {
        SignalOrigin::Parent => true,
        // For a key of the terminal, or a hang-up, the kernel signals the whole process group: the command too, unless it has
        // left the group, as timeout(1) does.
        SignalOrigin::Kernel => sys::process_group(Some(command)) != sys::process_group(None),
        // Who signals the group from outside has signalled the parent as well, which passes it on; and the command itself has
        // no business with PID 1.
        SignalOrigin::Other => false,
    }
}

/// Reaps every process that has ended; the status of `command` once it is among them.
fn reap(command: Pid) -> Option<u8> {
    let mut outcome = None;
    while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
        if pid == command {
            let by_signal = status.terminating_signal().map(|signal| 128 + signal);
            outcome = status.exit_status().or(by_signal).map(|code| code as u8);
        }
    }
    outcome
}

/// Kills and reaps every other process of the PID namespace. They are all our children, or become it when their parents end.
fn end_all_others() {
    loop {
        match process::wait(WaitOptions::NOHANG) {
            // A process that is just being created gets no signal, so it is sent again after each that was reaped.
            Ok(None) => {
                sys::kill_all_others();
                let _ = process::wait(WaitOptions::empty());
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_sent() {
        let failed = Message::Failed(Report { step: 70_000, errno: Errno::PERM });
        for message in [Message::Network, Message::Started, failed, Message::Ended(139)] {
            assert_eq!(Message::from_bytes(message.to_bytes()), message);
        }
    }
}
