//! What the manual tells of an option beyond its line in the help.

/// Options by their long names. One that is not here has its line of the help in the manual.
pub const STORIES: &[(&str, &str)] = &[
    (
        "command",
        "Run this line with the sandbox's shell, with the build's variables. With build it is run where the build fails.",
    ),
    ("attr", "The attribute that was built, of the file that stands in place of BUILD_DIR, or of ./default.nix."),
    ("fresh", "Enter the build as it was before it began, from its derivation, though there is a kept directory."),
    ("help", "Print help: with -h what is wanted daily, with --help every option."),
    ("network", "Share the host's network, as a fixed-output derivation does by itself."),
    ("no-network", "Have no network but the loopback device, also where the derivation is a fixed-output derivation."),
    (
        "with",
        "Add a store path with all that it needs, or what Nix builds of a name such as nixpkgs#strace, and its programs to the end of \
         PATH. You are told that they are not part of the build. May be given more than once.",
    ),
    (
        "bind",
        "Show a path of the host, read-only, at the same place in the sandbox or at TARGET. With a «?» behind it the source may be \
         missing. May be given more than once.",
    ),
    ("bind-rw", "The same, writable: what is written there is written on the host."),
    (
        "store",
        "What of the store is shown: with closure what the build could see, which is the closure of its inputs, in a directory that \
         can be written to; with full all of it, read-only.",
    ),
    ("store-root", "The root of the store that was built in, as of «nix-build --store ROOT»."),
    (
        "memory-max",
        "Let the sandbox have no more memory than this, such as 512M or 2G: all of it together where a cgroup is delegated, else each \
         process. Which of the two is said.",
    ),
    ("pids-max", "Let the command have no more processes and threads than this."),
    ("cpus", "Let the sandbox have no more processors than this, such as 2 or, where a cgroup is delegated, 1.5."),
    (
        "timeout",
        "End the whole sandbox after this time, such as 90s or 1.5h, with exit status 124, as timeout(1) does.",
    ),
    (
        "derivation",
        "The derivation that was built, where it cannot be found out, or another one was taken. A build is known by its outputs, else \
         by the name of its directory.",
    ),
    (
        "build-dir-mode",
        "How the build directory becomes writable: with copy by a copy, with reflink by one that shares its blocks with the kept \
         directory, with overlay by a layer above the kept directory that takes all changes, and with in-place not at all, so that the \
         kept directory itself is changed. By itself, which is auto, shared blocks where that is possible; else a copy of what has up to \
         2,000 entries and 64 MiB, and an overlay of what is larger.",
    ),
    (
        "ignore-unreadable",
        "Go on without the files of the kept directory that you may not read, and say how many there were. Where a build user built it \
         is so by itself.",
    ),
    (
        "like",
        "Whose sandbox it is to be like: multi-user, one built by a Nix daemon, or single-user, one built by the owner of the store. By \
         itself it is what the owner of the kept directory tells. The build of a single-user Nix can write to / and make its home.",
    ),
    (
        "as-pid-1",
        "Execute the command as PID 1 itself, as Nix does its builder, and not as a child of our init. Then nothing reaps orphans, and \
         no signal that it has no handler for ends it.",
    ),
    (
        "shell",
        "The bash of an interactive session, from any store path. By itself it is the one that NIX_BUILD_SHELL or SHELL names if it is \
         in the store, else the build's own if it can edit lines, else one that can from your profiles or the store.",
    ),
    ("verbose", "Print each step on standard error, and what was copied."),
    ("dry-run", "Print what would be done, a step a line, and do nothing."),
    (
        "save-patch",
        "Save what was changed in the source as a patch in FILE, a new file or an empty one, also if a command changed it. By itself what is \
         changed in a session is saved in a new file in $XDG_STATE_HOME/nix-build-shell, and what a command changes is not saved.",
    ),
    ("no-patch", "Save no patch."),
    (
        "keep-session",
        "Keep what is done in the sandbox, in /build and in the sandbox's store, as a session that «nix-build-shell sessions enter \
         NAME» enters again. A patch of what was changed is saved when the session is removed.",
    ),
    (
        "from",
        "Begin with this phase, and not with the one that failed. With unpackPhase it begins anew in an empty directory.",
    ),
    ("only", "Run this phase and no other."),
    (
        "shell-on-failure",
        "Where a phase fails, open a shell on what it has left. The exit status is that of the phase, or 0 where all was resumed to the \
         end in that shell.",
    ),
    ("json", "Print the list for programs to read."),
];
