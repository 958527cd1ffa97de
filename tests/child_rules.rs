//! The child half of the sandbox allocates nothing: here an allocator ends it at the first attempt.
//!
//! This test has no harness, so that its own executable, which is static, can be the program that the sandbox runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::sync::atomic::{AtomicI32, Ordering};

use nix_build_shell::additions::Additions;
use nix_build_shell::build_shell::BuildShell;
use nix_build_shell::caller::Caller;
use nix_build_shell::failed_build::{EntryEnvironment, FailedBuild, Kind, Preparation, StoreView};
use nix_build_shell::nix::Settings;
use nix_build_shell::nix::store::Store;
use nix_build_shell::plan::{Access, BuildMount, KeptMount, Plan, Step};
use nix_build_shell::sandbox::{self, Groundwork, IdMappedMount};
use nix_build_shell::scratch::{Filling, Scratch};
use nix_build_shell::session::{self, Signals, Terminal};
use rustix::process::getpid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::dup2_stdin;

/// What the program in the sandbox ends with.
const RAN: i32 = 42;
/// The command that does not end by itself.
const STAY: &str = "stay";
/// What the child ends with when it allocates.
const ALLOCATED: i32 = 99;
/// The process that may allocate.
static PARENT: AtomicI32 = AtomicI32::new(0);

struct ParentOnly;

impl ParentOnly {
    fn check() {
        let parent = PARENT.load(Ordering::Relaxed);
        if parent != 0 && getpid().as_raw_nonzero().get() != parent {
            // Not `process::exit`, whose destructors may allocate in their turn.
            // SAFETY: _exit(2) takes no pointer.
            unsafe { libc::_exit(ALLOCATED) };
        }
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for ParentOnly {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::check();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: ParentOnly = ParentOnly;

fn main() {
    // In the sandbox: `SHELL -c SCRIPT -- …`.
    if env::args().nth(1).as_deref() == Some("-c") {
        if env::args().next_back().as_deref() == Some(STAY) {
            std::thread::park();
        }
        std::process::exit(RAN);
    }
    assert!(
        std::path::Path::new("/nix/store").exists(),
        "there is no /nix/store on this machine: «make setup» makes it"
    );
    the_whole_plan_is_carried_out_without_an_allocation();
    namespaces_are_made_ahead_without_an_allocation();
    an_overlay_is_mounted_without_an_allocation();
    a_failing_step_is_reported_without_an_allocation();
    a_command_that_is_not_there_is_reported_without_an_allocation();
    a_sandbox_is_joined_without_an_allocation();
    with_a_terminal_it_needs_no_allocation_either();
    println!("test result: ok. 7 passed; 0 failed");
}

/// A scratch directory for a build that left nothing, and the plan of its sandbox.
fn with_plan(test: impl FnOnce(Plan)) {
    with_build_and_plan(&[], |_, plan| test(plan));
}

/// The same, of a sandbox that runs `command`, and what it is the sandbox of.
fn with_build_and_plan(command: &[&str], test: impl FnOnce(&FailedBuild, Plan)) {
    let build = FailedBuild {
        kept: None,
        derivation: None,
        build_directory: "/build".into(),
        store: Store::from_environment().unwrap(),
        store_view: StoreView::Whole,
        shell: BuildShell { path: "/bin/sh".into(), applet: None, file: env::current_exe().unwrap() },
        environment: EntryEnvironment {
            preparation: Preparation::Nothing,
            variables: Vec::new(),
            files: Vec::new(),
            builder_arguments: Vec::new(),
        },
        kind: Kind::SingleUser,
        has_network: false,
        additions: Additions::default(),
        host_paths: Vec::new(),
        notes: Vec::new(),
    };
    let caller = Caller::current();
    let mut scratch = Scratch::create(&env::temp_dir(), None).unwrap();
    scratch.fill(&build, &caller, &Filling::of(&|| Ok(()))).unwrap();
    let plan = Plan::new(&build, &Settings::default(), &caller, scratch.directories(), command).unwrap();
    PARENT.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    test(&build, plan);
    PARENT.store(0, Ordering::Relaxed);
}

fn the_whole_plan_is_carried_out_without_an_allocation() {
    with_plan(|mut plan| {
        // The one step that only a plan with the host's network has.
        let after = plan.steps.iter().position(|step| *step == Step::ForbidNewPrivileges).unwrap() + 1;
        plan.steps.insert(after, Step::ScopeAbstractSockets);
        let status = sandbox::start(&plan).expect("the child may have allocated").wait().unwrap();
        assert_ne!(i32::from(status), ALLOCATED, "the child allocated");
        assert_eq!(i32::from(status), RAN);
    });
}

/// The forerunner shares the parent's memory, and its process is not the parent's.
fn namespaces_are_made_ahead_without_an_allocation() {
    with_plan(|plan| {
        let mut otherwise = plan.clone();
        otherwise.steps.swap(1, 2);
        // The ground for another beginning is given up.
        for plan in [&plan, &otherwise] {
            let groundwork = Groundwork::begin(plan.namespaces, &Caller::current()).unwrap();
            let status = groundwork.build(plan).expect("the forerunner may have allocated").wait().unwrap();
            assert_eq!(i32::from(status), RAN);
        }
        let begin = || Groundwork::begin(plan.namespaces, &Caller::current()).unwrap();
        let waiting = plan.clone().awaiting_build();
        let launch = begin().launch(&waiting).unwrap().expect("the ground suits the plan");
        let status = launch.go().expect("the child may have allocated").wait().unwrap();
        assert_eq!(i32::from(status), RAN);
        // One that nobody lets go on ends, and ground that does not suit is given up.
        drop(begin().launch(&waiting).unwrap());
        assert!(begin().launch(&otherwise).unwrap().is_none());
    });
}

/// As root the lower layer is a mount with mapped owners; the file system of the temporary directory has to know of those.
fn an_overlay_is_mounted_without_an_allocation() {
    with_build_and_plan(&[], |build, _| {
        let kept = tempfile::tempdir().unwrap();
        let caller = Caller::current();
        let mut directories = Scratch::example_directories(&env::temp_dir());
        let scratch = tempfile::tempdir().unwrap();
        directories.scratch = scratch.path().into();
        for name in ["build", "work", "lower"] {
            std::fs::create_dir(scratch.path().join(name)).unwrap();
        }
        directories.build = BuildMount::Overlay { lower: KeptMount::Path(kept.path().into()) };
        let mapped = caller.is_root().then(|| {
            std::os::unix::fs::chown(kept.path(), Some(30001), Some(30000)).unwrap();
            let handle = std::fs::File::open(kept.path()).unwrap().into();
            IdMappedMount::of(&handle, (30001, 30000), &caller, false).unwrap()
        });
        if let Some(mapped) = &mapped {
            directories.build = BuildMount::Overlay { lower: KeptMount::IdMapped(mapped.descriptor()) };
        }
        let command: [&str; 0] = [];
        let plan = Plan::new(build, &Settings::default(), &caller, &directories, &command).unwrap();
        let status = sandbox::start(&plan).expect("the child may have allocated").wait().unwrap();
        assert_eq!(i32::from(status), RAN);
    });
}

fn a_failing_step_is_reported_without_an_allocation() {
    with_plan(|mut plan| {
        let missing = Step::Bind {
            source: c"/nonexistent".into(),
            target: c"/nonexistent".into(),
            recursive: false,
            access: Access::ReadOnly,
        };
        plan.steps.insert(2, missing);
        let message = sandbox::start(&plan).unwrap_err().to_string();
        assert!(message.contains("bind /nonexistent on /nonexistent"), "{message}");
    });
}

fn a_command_that_is_not_there_is_reported_without_an_allocation() {
    with_plan(|mut plan| {
        plan.command.program = c"/nonexistent".into();
        let message = sandbox::start(&plan).unwrap_err().to_string();
        assert!(message.contains("cannot execute the build's shell /nonexistent"), "{message}");
    });
}

fn a_sandbox_is_joined_without_an_allocation() {
    with_build_and_plan(&[STAY], |build, plan| {
        let (first, ()) = sandbox::start_joinable(&plan, |_| Ok(())).expect("the child may have allocated");
        let (settings, caller) = (Settings::default(), Caller::current());
        let namespaces = first.namespaces().unwrap();
        let joining = Plan::for_joining(build, &settings, &caller, namespaces, &[""; 0]).unwrap();
        let status = sandbox::join(&joining).expect("the child may have allocated").wait().unwrap();
        assert_ne!(i32::from(status), ALLOCATED, "the child allocated");
        assert_eq!(i32::from(status), RAN);
    });
}

/// The last one: standard input is a terminal from here on.
fn with_a_terminal_it_needs_no_allocation_either() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    dup2_stdin(&slave).unwrap();
    let signals = Signals::block().unwrap();
    for as_pid_1 in [false, true] {
        with_plan(|plan| {
            let terminal = Terminal::of_caller();
            let plan = plan.executed(Some(terminal.as_ref().unwrap().for_command()), as_pid_1);
            let mut sandbox = sandbox::start(&plan).expect("the child may have allocated");
            let status = session::wait(&mut sandbox, &signals, terminal, None).unwrap();
            assert_eq!(i32::from(status.status()), RAN);
        });
    }
}
