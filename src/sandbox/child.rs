//! The child's half: obeys the plan, executes the command and stays as the sandbox's first process.
//!
//! It runs on a copy of the parent's memory in which only this thread exists. So it makes system calls and nothing else: no
//! allocation, no formatting, no lock, no panic, no libc, no destructor of the standard library. `tests/child_rules.rs` aborts
//! the child at its first allocation.

use std::ffi::{CStr, CString, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec};
use rustix::io::{Errno, Result};
use rustix::mount::{self, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{self, DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, setrlimit};
use rustix::pty::{self, OpenptFlags};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stdin};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr, tcsetpgrp, tcsetwinsize};
use rustix::thread::{self, CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, ThreadNameSpaceType, Uid};

use super::clone3::{self, Child};
use super::message::{Message, Report, receive, send_with};
use super::{init, landlock, read_only};
use crate::plan::{Access, Command, CommandTerminal, Namespaces, Plan, SANDBOX_GID, SANDBOX_UID, Step};
use crate::sys::{self, SignalSet};

/// Room for the few frames between `clone3` and `execve`.
const COMMAND_STACK: usize = 16 << 10;

/// Exit status of a child that could not start; the parent knows more from the report.
pub(super) const FAILED: i32 = 125;

/// Creates the child that carries out `task`, beside the calling process, in `namespaces` and in those that the caller is in, and
/// in `cgroup` if there is one. The kernel stores its pidfd and its number.
///
/// # Safety
/// As for [`clone3::spawn_in`]: `task` must be one that [`Task::new`] has made, whose plan is still there.
///
/// # Errors
/// As of [`clone3::spawn_in`].
pub(super) unsafe fn spawn(
    task: *mut Task,
    namespaces: Namespaces,
    cgroup: Option<RawFd>,
    pidfd: &AtomicI32,
    number: &AtomicI32,
) -> Result<()> {
    // SAFETY: `main` makes system calls on its own copy of the task and nothing else; the caller answers for the task.
    unsafe { clone3::spawn_sibling(namespaces, cgroup, pidfd, number, main, task.cast()) }
}

/// Creates the child that carries out `plan`, one that [joins](Plan::joins) a sandbox.
///
/// # Errors
/// As of [`clone3::spawn_in`].
pub(super) fn spawn_joining(plan: &Plan, descriptors: Descriptors) -> Result<Child> {
    let mut task = Task::new(plan, descriptors, Namespaces::none(), 0..0);
    // SAFETY: `main` makes system calls on its own copy of the task, and of the plan, and nothing else.
    unsafe { clone3::spawn_in(Namespaces::none(), main, (&raw mut task).cast()) }
}

/// What the child works on, made by the parent: the plan, and the command's strings in the form of `execve`. They must outlive it
/// until the child has its own copy.
#[derive(Debug)]
pub(super) struct Task {
    own_namespaces: Namespaces,
    steps: *const [Step],
    next_step: usize,
    done_ahead: Range<usize>,
    ends_sandbox: bool,
    has_limits: bool,
    program: *const CStr,
    argv: Vec<*const u8>,
    envp: Vec<*const u8>,
    terminal: Option<CommandTerminal>,
    as_pid_1: bool,
    descriptors: Descriptors,
    limit_of_descriptors: Rlimit,
    stack: Box<[MaybeUninit<u8>]>,
}

/// What the child finds open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    /// Leads to the parent.
    pub channel: RawFd,
    /// The parent's own end.
    pub parents_channel: RawFd,
    /// Through the first the network namespace comes; the second is the end of who makes it.
    pub network: Option<[RawFd; 2]>,
    /// The directory of the cgroup to start in.
    pub cgroup: Option<RawFd>,
}

impl Task {
    /// The task of the child that makes `own_namespaces` itself, and carries out `plan` but for the steps that were done before it was
    /// created.
    pub(super) fn new(
        plan: &Plan,
        descriptors: Descriptors,
        own_namespaces: Namespaces,
        done_ahead: Range<usize>,
    ) -> Self {
        let Command { program, arguments, environment } = &plan.command;
        Self {
            own_namespaces,
            steps: plan.steps.as_slice(),
            next_step: 0,
            done_ahead,
            ends_sandbox: !plan.joins(),
            has_limits: !plan.limits.in_cgroup.is_empty(),
            program: program.as_c_str(),
            argv: null_terminated(arguments),
            envp: null_terminated(environment),
            terminal: plan.terminal(),
            as_pid_1: plan.as_pid_1,
            descriptors,
            limit_of_descriptors: getrlimit(Resource::Nofile),
            stack: Box::new_uninit_slice(COMMAND_STACK),
        }
    }

    /// Whether the cgroup has to keep limits, so that nothing may start outside of it.
    pub(super) fn has_limits(&self) -> bool {
        self.has_limits
    }

    /// The cgroup to start in.
    pub(super) fn cgroup(&self) -> Option<RawFd> {
        self.descriptors.cgroup
    }
}

fn null_terminated(strings: &[CString]) -> Vec<*const u8> {
    let pointers = strings.iter().map(|string| string.as_ptr().cast());
    pointers.chain([ptr::null()]).collect()
}

/// The child's first and only function; `argument` is its [`Task`].
extern "C" fn main(argument: *mut c_void) -> ! {
    // SAFETY: the parent passed a task, which lives on in the child's copy of the parent's memory; nobody else is here.
    let task = unsafe { &mut *argument.cast::<Task>() };
    // Who has created it may have lifted it for itself, and a limit that was there once can be set again.
    let _ = setrlimit(Resource::Nofile, task.limit_of_descriptors);
    // SAFETY: the child has no use for its copy of the parent's end, and must not keep it open: its end of file tells that the
    // parent is gone.
    unsafe { rustix::io::close(task.descriptors.parents_channel) };
    if let Some([_, from_forerunner]) = task.descriptors.network {
        // SAFETY: the same, for the end of who makes the network.
        unsafe { rustix::io::close(from_forerunner) };
    }
    run(task)
}

/// The function of the process that goes on in a PID namespace that was joined; `argument` is the [`Task`], partly done.
extern "C" fn go_on(argument: *mut c_void) -> ! {
    // SAFETY: as in `main`.
    let task = unsafe { &mut *argument.cast::<Task>() };
    run(task)
}

fn run(task: &mut Task) -> ! {
    let own_namespaces = match task.own_namespaces {
        none if none == Namespaces::none() => Ok(()),
        own => sys::unshare(own).map_err(Message::NoNamespaces),
    };
    let outcome = own_namespaces.and_then(|()| set_up(task).map_err(Message::Failed));
    // SAFETY: the channel was opened for this process, and nobody closes it before.
    let channel = unsafe { OwnedFd::from_raw_fd(task.descriptors.channel) };
    match outcome {
        Ok(command) => {
            tell(&channel, Message::Started);
            let status = init::serve(command, &channel, task.terminal.is_some());
            if task.ends_sandbox {
                init::end_all_others();
            }
            tell(&channel, Message::Ended(status));
            sys::exit(0)
        }
        Err(message) => {
            tell(&channel, message);
            sys::exit(FAILED)
        }
    }
}

/// Tells the parent, and nobody if it is gone: nobody is there to act on it.
pub(super) fn tell(channel: impl AsFd, message: Message) {
    let _ = send(channel, &message.to_bytes(), SendFlags::NOSIGNAL);
}

fn set_up(task: &mut Task) -> std::result::Result<Pid, Report> {
    // SAFETY: the plan is in this process's copy of the memory that it was made in.
    let steps = unsafe { &*task.steps };
    while let Some(what) = steps.get(task.next_step) {
        let step = task.next_step;
        task.next_step += 1;
        let outcome = match what {
            _ if task.done_ahead.contains(&step) => Ok(()),
            Step::GoOnInPidNamespace => go_on_in_pid_namespace(task),
            _ => apply(what, task.descriptors),
        };
        outcome.map_err(|errno| Report { step, errno })?;
    }
    execute(task).map_err(|errno| Report { step: steps.len(), errno })
}

/// Does one step, in the child or ahead of it in the forerunner. Of the descriptors those that the step needs must be open.
pub(super) fn apply(step: &Step, descriptors: Descriptors) -> Result<()> {
    // SAFETY: the channel stays open until the command runs, and until the forerunner has been reaped.
    let parent = unsafe { BorrowedFd::borrow_raw(descriptors.channel) };
    match step {
        Step::DieWithParent => die_with_parent(parent),
        Step::JoinNamespace { flag, descriptor, .. } => {
            // SAFETY: the parent, whose descriptors this process has, keeps it open.
            let namespace = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            thread::move_into_thread_name_spaces(namespace, ThreadNameSpaceType::from_bits_retain(*flag))
        }
        // Done before, since it changes the task.
        Step::GoOnInPidNamespace => Err(Errno::INVAL),
        Step::AwaitIdMaps | Step::AwaitBuild => await_parent(parent),
        Step::BecomeBuilder => become_builder(),
        Step::JoinNetwork => join_network(descriptors),
        Step::SetHostName(name) => rustix::system::sethostname(name.to_bytes()),
        Step::SetDomainName(name) => rustix::system::setdomainname(name.to_bytes()),
        Step::KeepMountsFromHost => {
            mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        }
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
        Step::AttachMount { descriptor, target } => {
            // SAFETY: the parent, whose descriptors this process has, keeps it open.
            let mount = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            mount::move_mount(mount, c"", CWD, target.as_c_str(), flags)
        }
        Step::MakeDirectory { path, mode } => rustix::fs::mkdirat(CWD, path.as_c_str(), Mode::from_raw_mode(*mode)),
        Step::ChangeMode { path, mode } => {
            rustix::fs::chmodat(CWD, path.as_c_str(), Mode::from_raw_mode(*mode), AtFlags::empty())
        }
        Step::MakeFile { path, mode, content } => make_file(path, Mode::from_raw_mode(*mode), content),
        Step::MakeSymlink { link, path } => rustix::fs::symlinkat(link.as_c_str(), CWD, path.as_c_str()),
        Step::ChangeDirectory(path) => process::chdir(path.as_c_str()),
        Step::PivotRoot => pivot_root(),
        Step::ForbidCoreDumps => {
            let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
            setrlimit(Resource::Core, limit)
        }
        Step::LimitData(bytes) => limit(Resource::Data, *bytes),
        Step::LimitProcesses(number) => limit(Resource::Nproc, u64::from(*number)),
        Step::RunOn(cores) => thread::sched_setaffinity(None, cores),
        Step::SetPersonality(persona) => sys::set_personality(*persona),
        Step::ForbidUserNamespaces => {
            write_file(c"proc/sys/user/max_user_namespaces", OFlags::empty(), Mode::empty(), b"0")
        }
        Step::LeaveSessionKeyring => leave_session_keyring(),
        Step::ForbidNewPrivileges => thread::set_no_new_privs(true),
        Step::FilterSystemCalls(filter) => sys::filter_system_calls(filter.instructions()),
        Step::LeadSession => process::setsid().map(drop),
        Step::OpenTerminal(terminal) => open_terminal(*terminal, parent),
        Step::ShowRoot => show_root(parent),
        Step::ScopeAbstractSockets => landlock::scope_abstract_sockets(),
        Step::ResetSignals => reset_signals(),
        Step::HideFromCommand => process::set_dumpable_behavior(DumpableBehavior::NotDumpable),
        Step::DropCapabilities => drop_capabilities(),
        Step::CloseDescriptors => close_descriptors(descriptors.channel),
    }
}

/// For good: the limit that may be set is the same.
fn limit(resource: Resource, most: u64) -> Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
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

/// The forerunner, or its helper, hands the namespace over. What it cannot do it tells the parent itself; without a word it was killed.
fn join_network(descriptors: Descriptors) -> Result<()> {
    let Some([from_forerunner, _]) = descriptors.network else {
        return Err(Errno::BADF);
    };
    // SAFETY: the socket stays open until the command runs.
    let socket = unsafe { BorrowedFd::borrow_raw(from_forerunner) };
    let namespace = loop {
        match receive(socket, &mut [0]) {
            Ok((0, _)) => return Err(Errno::PIPE),
            Ok((_, namespace)) => break namespace.ok_or(Errno::BADMSG)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let joined = thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    sys::close(namespace);
    joined
}

/// A PID namespace that was joined is only that of the children: a sibling of this process goes on with the task, and this one ends.
fn go_on_in_pid_namespace(task: &mut Task) -> Result<()> {
    let (pidfd, number) = (AtomicI32::new(-1), AtomicI32::new(0));
    let argument = (&raw mut *task).cast();
    // SAFETY: `go_on` makes system calls on what the task holds and nothing else; the sibling has its own copy of it.
    unsafe { clone3::spawn_sibling(Namespaces::none(), task.cgroup(), &pidfd, &number, go_on, argument) }?;
    // SAFETY: the kernel stored a new descriptor there; the end of this process closes it.
    let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd.load(Ordering::Relaxed)) };
    let Some(pid) = Pid::from_raw(number.load(Ordering::Relaxed)) else { return Err(Errno::SRCH) };
    // SAFETY: the channel stays open until this process ends.
    let parent = unsafe { BorrowedFd::borrow_raw(task.descriptors.channel) };
    let sent = send_with(parent, &Message::GoesOn(pid).to_bytes(), pidfd);
    sys::exit(if sent.is_ok() { 0 } else { FAILED })
}

/// The kernel gives the slave to whom opens the master, so it is the build's user's.
///
/// This process leads the session, and not the command: a process group whose members have no parent in its session cannot be
/// stopped by a key.
fn open_terminal(terminal: CommandTerminal, parent: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = rustix::fs::openat(CWD, c"/dev/pts/ptmx", flags, Mode::empty())?;
    pty::unlockpt(&master)?;
    let slave = pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    tcsetattr(&slave, OptionalActions::Now, &tcgetattr(stdin())?)?;
    tcsetwinsize(&slave, tcgetwinsize(stdin())?)?;
    let sent = send_with(parent, &Message::Terminal.to_bytes(), master.as_fd());
    sys::close(master);
    sent?;
    process::setsid()?;
    process::ioctl_tiocsctty(&slave)?;
    let [input, output, error] = terminal.replaces;
    if input {
        dup2_stdin(&slave)?;
    }
    if output {
        dup2_stdout(&slave)?;
    }
    if error {
        dup2_stderr(&slave)?;
    }
    sys::close(slave);
    Ok(())
}

fn show_root(parent: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty())?;
    let sent = send_with(parent, &Message::Root.to_bytes(), root.as_fd());
    sys::close(root);
    sent
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
        if source == c"/" {
            // The new root, which is mounted there, has come along, and hides the host's.
            mount::unmount(target, UnmountFlags::DETACH)?;
        }
    } else {
        mount::mount_bind(source, target)?;
    }
    match access {
        Access::ReadWrite | Access::AsSource => Ok(()),
        Access::ReadOnly => match sys::make_mount_read_only(target, recursive) {
            // Before Linux 5.12.
            Err(Errno::NOSYS) => read_only::remount(target, recursive),
            made => made,
        },
    }
}

fn make_file(path: &CStr, mode: Mode, content: &[u8]) -> Result<()> {
    if content.is_empty() {
        return rustix::fs::mknodat(CWD, path, FileType::RegularFile, mode, 0);
    }
    write_file(path, OFlags::CREATE | OFlags::EXCL, mode, content)
}

fn write_file(path: &CStr, flags: OFlags, mode: Mode, content: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(CWD, path, flags | OFlags::WRONLY | OFlags::CLOEXEC, mode)?;
    // The content is small, on a tmpfs or in /proc: a write that is not whole has no room.
    let written = rustix::io::write(&file, content);
    sys::close(file);
    if written? == content.len() { Ok(()) } else { Err(Errno::NOSPC) }
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
    terminal: Option<CommandTerminal>,
    dies_with_us: bool,
    failure: Option<Errno>,
}

/// How often the command is tried again where there are too many processes, and how long is waited before.
const ROUNDS: usize = 100;
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Executes the command. The forerunner and its helper count as processes of this user namespace until the parent, at a word from us, has
/// reaped them: where the limit leaves room for the command and no more, that is waited for.
fn execute(task: &mut Task) -> Result<Pid> {
    for round in 0..ROUNDS {
        match try_to_execute(task) {
            Err(Errno::AGAIN) => {
                if round == 0 {
                    // SAFETY: the channel stays open until the command runs.
                    tell(unsafe { BorrowedFd::borrow_raw(task.descriptors.channel) }, Message::NoRoom);
                }
                // No signal cuts it short: all are blocked.
                drop(thread::nanosleep(&PAUSE));
            }
            executed => return executed,
        }
    }
    try_to_execute(task)
}

/// Executes the command in a new process, which shares this one's memory until then; or, as PID 1, in this one.
fn try_to_execute(task: &mut Task) -> Result<Pid> {
    // SAFETY: as for the steps.
    let program = unsafe { &*task.program };
    let mut execution = Execution {
        program,
        argv: task.argv.as_ptr(),
        envp: task.envp.as_ptr(),
        terminal: task.terminal,
        // With PID 1 the kernel ends it anyway.
        dies_with_us: !task.ends_sandbox,
        failure: None,
    };
    if task.as_pid_1 {
        return Err(execution.replace_this_process());
    }
    let argument = (&raw mut execution).cast();
    // SAFETY: `become_command` makes system calls only. `execution` outlives it, since this thread waits until it has
    // executed the command or ended.
    let pid = unsafe { clone3::spawn_sharing_memory(&mut task.stack, become_command, argument) }?;
    // SAFETY: `execution` is live; the read is volatile since another process wrote it.
    match unsafe { ptr::read_volatile(&raw const execution.failure) } {
        Some(errno) => {
            // It has ended, and would count as a process.
            let _ = process::waitpid(Some(pid), WaitOptions::empty());
            Err(errno)
        }
        None => Ok(pid),
    }
}

extern "C" fn become_command(argument: *mut c_void) -> ! {
    // SAFETY: `execute` passed an `Execution`, waits, and touches it only afterwards.
    let execution = unsafe { &mut *argument.cast::<Execution>() };
    let prepared = execution.prepare_this_process();
    execution.failure = Some(prepared.err().unwrap_or_else(|| execution.replace_this_process()));
    sys::exit(FAILED)
}

/// As a shell starts a job: a process group of its own, in the foreground of the terminal, if there is one, or not. All signals are
/// blocked, so that to ask for the foreground from the background does not stop this process.
fn lead_process_group(terminal: Option<CommandTerminal>) -> Result<()> {
    process::setpgid(None, None)?;
    match terminal {
        Some(CommandTerminal { in_foreground: true, .. }) => tcsetpgrp(stdin(), process::getpid()),
        _ => Ok(()),
    }
}

impl Execution<'_> {
    fn prepare_this_process(&self) -> Result<()> {
        if self.dies_with_us {
            // Our parent stands still until we have executed the command: it cannot have died before.
            process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        lead_process_group(self.terminal)
    }

    /// Comes back only with an error.
    fn replace_this_process(&self) -> Errno {
        match sys::set_blocked_signals(SignalSet::EMPTY) {
            // SAFETY: the parent made both arrays, null-terminated, of strings that live as long as the plan.
            Ok(_) => unsafe { sys::execve(self.program, self.argv, self.envp) },
            Err(errno) => errno,
        }
    }
}
