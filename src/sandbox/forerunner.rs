//! Makes the namespaces while this process still finds out what the sandbox is to look like.
//!
//! A network namespace takes the kernel as long as all the rest, and whoever asks for one waits. So a process of its own, the
//! forerunner, begins as soon as a sandbox is wanted, on another core, with the other namespaces, and a helper of its own with that one.
//! Both share this process's memory, so the forerunner finds the plan there when that is made, creates the sandbox's first process in the
//! namespaces and ends, while that still makes its mounts. What every sandbox begins with it does itself meanwhile, all of the root that
//! does not depend on the plan included. Like the child it makes system calls and nothing else.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::{ptr, slice};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, getpid, getppid};
use rustix::thread::{CpuSet, futex, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::child::{self, Descriptors, FAILED, Task};
use super::clone3::{self, Child};
use super::message::{Message, Report, send_with};
use super::{loopback, refusal};
use crate::descriptor_limit::DescriptorLimit;
use crate::plan::{Namespaces, Plan, Step};
use crate::sys::{self, SignalSet};

/// Room for the forerunner's few frames, and, in its copy, for the child's.
const STACK: usize = 256 << 10;
/// The same for its helper's.
const HELPERS_STACK: usize = 64 << 10;

/// How often somebody who waits for a word looks whether there is anybody to tell it.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the forerunner does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The namespaces: the sandbox's first process has to be in all of them from its beginning.
    Namespaces,
    /// All but the network, and what every plan begins with, while a helper makes the network: the plan takes a while yet, and when it is
    /// there nobody is to wait for the network but the sandbox's first process, as late as it can.
    Root,
    /// The sandbox's first process, which makes the other namespaces itself and then mounts, while the network is being made: the plan
    /// is there.
    Sandbox,
}

/// What this process and the forerunner share.
#[derive(Debug)]
struct Orders {
    parent: Option<Pid>,
    namespaces: Namespaces,
    first: First,
    /// One as soon as the next two tell what it does where the namespaces come first.
    are_steps_there: AtomicU32,
    steps: AtomicPtr<Step>,
    number_of_steps: AtomicUsize,
    cores: Option<Cores>,
    helpers_stack: (u64, u64),
    /// The helper's number and pidfd, from the kernel: the number last.
    helper: AtomicI32,
    helper_pidfd: AtomicI32,
    channel: RawFd,
    network: RawFd,
    /// One as soon as `task` holds the child's.
    is_published: AtomicU32,
    task: AtomicPtr<Task>,
    /// One as soon as the ids are mapped, or cannot be.
    are_ids_settled: AtomicU32,
    /// The child's number and pidfd, from the kernel: the number last.
    child: AtomicI32,
    child_pidfd: AtomicI32,
    /// Why the child is not in the cgroup that it was to start in.
    refused_cgroup: AtomicI32,
}

/// A forerunner at work, or one that has ended. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Forerunner {
    process: Child,
    is_reaped: bool,
    // These are the forerunner's as well, until it has been reaped.
    orders: Box<Orders>,
    steps: Vec<Step>,
    task: Option<Box<Task>>,
    _stacks: Box<[MaybeUninit<u8>]>,
    network: Option<Network>,
}

/// How the network namespace gets from the forerunner to the child.
#[derive(Debug)]
struct Network {
    from_forerunner: OwnedFd,
    to_child: OwnedFd,
}

impl Forerunner {
    /// Starts one that makes `namespaces` and tells through `channel` what it cannot do. If they come first it waits then for
    /// [`do_ahead`](Self::do_ahead).
    ///
    /// # Errors
    /// Where the kernel refuses a user namespace: the likely cause and the remedy in one sentence.
    pub(super) fn start(namespaces: Namespaces, first: First, channel: &OwnedFd) -> Result<Self> {
        let (from_forerunner, to_child) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("cannot make a socket for the sandbox's network")?;
        let mut orders = Box::new(Orders {
            parent: Some(getpid()),
            namespaces,
            first,
            are_steps_there: AtomicU32::new(0),
            steps: AtomicPtr::new(ptr::dangling_mut()),
            number_of_steps: AtomicUsize::new(0),
            cores: Cores::here(),
            helpers_stack: (0, 0),
            helper: AtomicI32::new(0),
            helper_pidfd: AtomicI32::new(-1),
            channel: channel.as_raw_fd(),
            network: from_forerunner.as_raw_fd(),
            is_published: AtomicU32::new(0),
            task: AtomicPtr::new(ptr::null_mut()),
            are_ids_settled: AtomicU32::new(0),
            child: AtomicI32::new(0),
            child_pidfd: AtomicI32::new(-1),
            refused_cgroup: AtomicI32::new(0),
        });
        let mut stacks = Box::new_uninit_slice(STACK + HELPERS_STACK);
        let (stack, helpers_stack) = stacks.split_at_mut(STACK);
        orders.helpers_stack = clone3::aligned(helpers_stack);
        let argument = (&raw mut *orders).cast();
        // What a terminal's key sends to all is for us to answer.
        let before = sys::set_blocked_signals(SignalSet::ALL).context("cannot block signals")?;
        // SAFETY: `main` makes system calls only, on atomics and on what is not written any more. All allocations are kept until
        // the forerunner has been reaped; moving the boxes does not move them.
        let spawned = unsafe { clone3::spawn_sharing_all(Namespaces::USER, stack, main, argument) };
        let unblocked = sys::set_blocked_signals(before);
        let process = spawned.map_err(refusal::of_namespaces)?;
        if let Some(cores) = &orders.cores {
            cores.send_to_another(process.pid);
        }
        let network = Some(Network { from_forerunner, to_child });
        // From here on it ends with this value.
        let begun = Self { process, is_reaped: false, orders, steps: Vec::new(), task: None, _stacks: stacks, network };
        unblocked.context("cannot unblock signals")?;
        Ok(begun)
    }

    /// Its number: the one whose user namespace wants its id maps.
    pub(super) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// The descriptor through which the child gets its network namespace; and the one through which that is sent.
    pub(super) fn network(&self) -> Option<[RawFd; 2]> {
        self.network.as_ref().map(|network| [network.to_child.as_raw_fd(), network.from_forerunner.as_raw_fd()])
    }

    /// Lets it do these steps, once it has the namespaces.
    pub(super) fn do_ahead(&mut self, steps: Vec<Step>) {
        debug_assert!(self.steps.is_empty(), "it may be at those that it was given first");
        self.steps = steps;
        self.orders.steps.store(self.steps.as_mut_ptr(), Ordering::Relaxed);
        self.orders.number_of_steps.store(self.steps.len(), Ordering::Relaxed);
        set(&self.orders.are_steps_there);
    }

    /// Whether what it does is what this plan begins with, but for the first step, to die with the parent, which every process has to do
    /// for itself.
    pub(super) fn suits(&self, plan: &Plan) -> bool {
        plan.steps.get(1..).is_some_and(|steps| steps.starts_with(&self.steps))
    }

    /// Lets it create the child that carries out the rest of `plan`, which it has to suit.
    pub(super) fn publish(&mut self, plan: &Plan, descriptors: Descriptors) {
        debug_assert!(self.suits(plan), "what was done ahead is not what the plan begins with");
        let ahead = 1..1 + self.steps.len();
        let own_namespaces = match self.orders.first {
            First::Namespaces | First::Root => Namespaces::none(),
            First::Sandbox => {
                let others = self.orders.namespaces.without(Namespaces::USER);
                others.without(Namespaces::OF_PROCESS).without(Namespaces::NETWORK)
            }
        };
        let task = self.task.insert(Box::new(Task::new(plan, descriptors, own_namespaces, ahead)));
        self.orders.task.store(&raw mut **task, Ordering::Relaxed);
        set(&self.orders.is_published);
    }

    /// Tells it that its ids are mapped, or cannot be.
    pub(super) fn settle_ids(&self) {
        set(&self.orders.are_ids_settled);
    }

    /// Waits until it, or the child, has told something through `channel`. Of a forerunner, or a child, that was killed nothing comes, as
    /// long as this process has the child's end of the channel open, so that is looked for now and then.
    pub(super) fn await_word(&self, channel: &OwnedFd) {
        let is_ready = |descriptor: &OwnedFd, time: &Timespec| {
            // What cannot be waited for is found out by who reads.
            poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(time)) != Ok(0)
        };
        while !is_ready(channel, &LOOK_EVERY) && !is_ready(&self.process.pidfd, &Timespec::default()) {}
    }

    /// Waits for its end, and that of its helper, and returns the child if it has created one.
    pub(super) fn reap(&mut self) -> Option<Child> {
        if !self.is_reaped {
            // An error would say that it has been reaped.
            let _ = self.process.wait();
            self.is_reaped = true;
        }
        let child = created(&self.orders.child, &self.orders.child_pidfd);
        if let Some(helper) = created(&self.orders.helper, &self.orders.helper_pidfd) {
            match child {
                Some(_) => drop(helper.wait()),
                // Nobody has a use for the network.
                None => helper.end(),
            }
        }
        // A child that waits for a network that nobody makes any more comes to the end of the socket.
        self.network = None;
        child
    }

    /// Why the child could not start in the cgroup that it was to start in, and started in ours.
    pub(super) fn refused_cgroup(&self) -> Option<Errno> {
        let errno = self.orders.refused_cgroup.load(Ordering::Relaxed);
        (errno != 0).then(|| Errno::from_raw_os_error(errno))
    }
}

impl Drop for Forerunner {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.process.end();
            self.is_reaped = true;
        }
        if let Some(child) = self.reap() {
            child.end();
        }
    }
}

/// The process whose number and pidfd the kernel has stored, for the first who asks.
fn created(number: &AtomicI32, pidfd: &AtomicI32) -> Option<Child> {
    let pid = Pid::from_raw(number.swap(0, Ordering::Relaxed))?;
    // SAFETY: the kernel made this descriptor in the table that we share, and both numbers are handed out once.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd.swap(-1, Ordering::Relaxed)) };
    Some(Child { pid, pidfd })
}

/// Tells the other process that something is so.
fn set(flag: &AtomicU32) {
    flag.store(1, Ordering::Release);
    // It fails only for what is no futex.
    let _ = futex::wake(flag, futex::Flags::PRIVATE, 1);
}

fn wait_for(flag: &AtomicU32) {
    while flag.load(Ordering::Acquire) == 0 {
        let _ = futex::wait(flag, futex::Flags::PRIVATE, 0, None);
    }
}

/// The cores that a process may run on.
#[derive(Debug)]
struct Cores {
    allowed: CpuSet,
}

impl Cores {
    /// Nothing where there is only one.
    fn here() -> Option<Self> {
        // What finds this number is looked up at the first call, which must not be the forerunner's.
        sched_getcpu();
        let allowed = sched_getaffinity(None).ok()?;
        (allowed.count() > 1).then_some(Self { allowed })
    }

    /// Moves a process that has just been created to another core than the caller's, and lets it run on all of them again. It would
    /// begin in the queue of this one, and the scheduler would leave both here, one after the other. Whoever waits in a queue is
    /// moved at once; to move itself, or another that runs, a process has to wait for the kernel's own.
    fn send_to_another(&self, process: Pid) {
        let mut others = self.allowed;
        others.unset(sched_getcpu());
        // Where it must not, all goes on as before, one after the other.
        if sched_setaffinity(Some(process), &others).is_ok() {
            let _ = sched_setaffinity(Some(process), &self.allowed);
        }
    }
}

/// The forerunner's first and only function; `argument` points to its [`Orders`].
extern "C" fn main(argument: *mut c_void) -> ! {
    // SAFETY: the parent keeps the orders until this process has been reaped, and of what it writes there all is atomic.
    let orders = unsafe { &*argument.cast::<Orders>() };
    let Err(message) = run(orders) else {
        // The maps are those of a process that has not ended.
        wait_for(&orders.are_ids_settled);
        sys::exit(0)
    };
    fail(orders, message)
}

fn fail(orders: &Orders, message: Message) -> ! {
    // SAFETY: the parent keeps the channel open until the forerunner has been reaped.
    let channel = unsafe { BorrowedFd::borrow_raw(orders.channel) };
    child::tell(channel, message);
    sys::exit(FAILED)
}

/// The helper's only function; `argument` points to the [`Orders`].
extern "C" fn help(argument: *mut c_void) -> ! {
    // SAFETY: as in `main`; the parent reaps this process when it has reaped the forerunner.
    let orders = unsafe { &*argument.cast::<Orders>() };
    match die_with(orders.parent).and_then(|()| make_network(orders)) {
        Ok(()) => sys::exit(0),
        Err(message) => fail(orders, message),
    }
}

/// Has this process be killed when its parent ends, which is to be `parent`.
fn die_with(parent: Option<Pid>) -> std::result::Result<(), Message> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Message::NoForerunner)?;
    if getppid() != parent {
        sys::exit(FAILED);
    }
    Ok(())
}

fn run(orders: &Orders) -> std::result::Result<(), Message> {
    die_with(orders.parent)?;
    let others = orders.namespaces.without(Namespaces::USER);
    match orders.first {
        First::Namespaces | First::Root => {
            let has_helper = orders.first == First::Root && others.isolate_network() && start_helper(orders).is_ok();
            sys::unshare(others.without(Namespaces::OF_PROCESS).without(Namespaces::NETWORK))
                .map_err(Message::NoNamespaces)?;
            if others.isolate_network() && !has_helper {
                make_network(orders)?;
            }
            do_steps(orders)?;
            create_child(orders, Namespaces::OF_PROCESS)
        }
        First::Sandbox => {
            create_child(orders, Namespaces::OF_PROCESS)?;
            if others.isolate_network() {
                // That the child may choose its cores itself comes later: it waits for the network before.
                if let (Some(cores), Some(child)) = (&orders.cores, Pid::from_raw(orders.child.load(Ordering::Relaxed)))
                {
                    cores.send_to_another(child);
                }
                make_network(orders)?;
            }
            Ok(())
        }
    }
}

/// It does not share the table of descriptors: what it has open goes with it, also if it is killed.
///
/// # Errors
/// There is no room for another process, or for its pidfd. Then the network has to be made without it.
fn start_helper(orders: &Orders) -> rustix::io::Result<()> {
    let argument = ptr::from_ref(orders).cast_mut().cast();
    // SAFETY: `help` makes system calls only, as this process does; its stack and the orders are kept until it has been reaped.
    unsafe { clone3::spawn_helper(orders.helpers_stack, &orders.helper_pidfd, &orders.helper, help, argument) }
}

/// What the child has from this process, when it is created.
fn do_steps(orders: &Orders) -> std::result::Result<(), Message> {
    wait_for(&orders.are_steps_there);
    let (steps, number) = (orders.steps.load(Ordering::Relaxed), orders.number_of_steps.load(Ordering::Relaxed));
    // SAFETY: the parent keeps the steps until this process has been reaped, and does not write to them any more.
    let steps = unsafe { slice::from_raw_parts(steps, number) };
    let descriptors = Descriptors { channel: orders.channel, parents_channel: -1, network: None, cgroup: None };
    for (step, what) in (1..).zip(steps) {
        child::apply(what, descriptors).map_err(|errno| Message::Failed(Report { step, errno }))?;
    }
    Ok(())
}

/// Makes a network namespace, brings `lo` up in it, and hands it over.
fn make_network(orders: &Orders) -> std::result::Result<(), Message> {
    sys::unshare(Namespaces::NETWORK).map_err(Message::NoNamespaces)?;
    // The table of descriptors may be the parent's too, which may have filled it far beyond the limit that this process began with.
    let limit = DescriptorLimit::raise();
    let namespace = loopback::raise().map_err(Message::NoLoopback)?;
    drop(limit);
    // SAFETY: the parent keeps the socket open until this process has been reaped.
    let socket = unsafe { BorrowedFd::borrow_raw(orders.network) };
    let sent = send_with(socket, &[0], namespace.as_fd());
    sys::close(namespace);
    match sent {
        // A child that has failed already does not listen, but it has told.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(errno) => Err(Message::NoHandover(errno)),
    }
}

/// Creates the child as soon as the parent has published its task.
fn create_child(orders: &Orders, namespaces: Namespaces) -> std::result::Result<(), Message> {
    wait_for(&orders.is_published);
    let task = orders.task.load(Ordering::Relaxed);
    // SAFETY: the task lives until this process has been reaped, and nobody writes to it.
    let cgroup = unsafe { &*task }.cgroup();
    if cgroup.is_some() {
        // Under sudo it is the caller's, and root has a right to what is somebody's only where that somebody is mapped.
        wait_for(&orders.are_ids_settled);
    }
    let create = |cgroup| {
        // The parent may be copying meanwhile, and have as much open as this process may.
        let _limit = DescriptorLimit::raise();
        // SAFETY: the child works on its own copy of the task.
        unsafe { child::spawn(task, namespaces, cgroup, &orders.child_pidfd, &orders.child) }
    };
    match create(cgroup) {
        // SAFETY: as above.
        Err(errno) if cgroup.is_some() && unsafe { &*task }.has_limits() => return Err(Message::NoCgroup(errno)),
        Err(errno) if cgroup.is_some() => {
            orders.refused_cgroup.store(errno.raw_os_error(), Ordering::Relaxed);
            create(None)
        }
        created => created,
    }
    .map_err(Message::NoNamespaces)
}
