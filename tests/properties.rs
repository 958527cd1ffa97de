//! What holds for every plan and every path, whatever a build, a caller or Nix's settings ask for.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix_build_shell::additions::Additions;
use nix_build_shell::build_shell::BuildShell;
use nix_build_shell::caller::Caller;
use nix_build_shell::failed_build::{
    EntryEnvironment, FailedBuild, HostAccess, HostPath, Kind, Preparation, StoreView,
};
use nix_build_shell::nix::store::Store;
use nix_build_shell::nix::{SandboxPath, Settings};
use nix_build_shell::plan::{BuildMount, HostDirectories, IdMap, IdMaps, Plan, SANDBOX_GID, SANDBOX_UID, Step};
use proptest::prelude::*;

const SCRATCH: &str = "/tmp/.nix-build-shell-scratch-xxxxxxxxxxxx";

/// A build that has these paths of the host, and its plan, if there can be one.
fn plan_with(host_paths: Vec<HostPath>, build_directory: &str, kind: Kind, has_network: bool) -> Option<Plan> {
    let build = FailedBuild {
        kept: None,
        derivation: None,
        build_directory: build_directory.into(),
        store: Store::from_environment().unwrap(),
        store_view: StoreView::Whole,
        shell: BuildShell { path: "/bin/sh".into(), applet: None, file: "/bin/sh".into() },
        environment: EntryEnvironment {
            preparation: Preparation::Nothing,
            variables: Vec::new(),
            files: Vec::new(),
            builder_arguments: Vec::new(),
        },
        kind,
        has_network,
        additions: Additions::default(),
        host_paths,
        notes: Vec::new(),
    };
    let directories = HostDirectories { scratch: SCRATCH.into(), has_outputs: false, build: BuildMount::Copy };
    Plan::new(&build, &Settings::default(), &Caller::current(), &directories, &["true"]).ok()
}

/// Where a step makes or mounts something, and whether it is a link.
fn place_of(step: &Step) -> Option<(&CStr, bool)> {
    match step {
        Step::Mount { target, .. } | Step::Bind { target, .. } => Some((target, false)),
        Step::MakeDirectory { path, .. } | Step::MakeFile { path, .. } => Some((path, false)),
        Step::ChangeMode { path, .. } if path.as_c_str() != c"." => Some((path, false)),
        Step::MakeSymlink { path, .. } => Some((path, true)),
        _ => None,
    }
}

fn path_of(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Carries a plan out in thought, and fails where a step would reach something outside of the new root.
fn check_places(plan: &Plan) {
    let store = Store::from_environment().unwrap().physical_directory().canonicalize().unwrap();
    let mut links = BTreeSet::new();
    let (mut is_inside, mut is_over) = (false, false);
    for step in &plan.steps {
        match step {
            // The new root is mounted on the host's, and entered through it.
            Step::Mount { target, .. } if target.as_c_str() == c"/" && !is_inside => continue,
            Step::ChangeDirectory(path) if !is_over => {
                assert_eq!(path.as_c_str(), c"/..", "out of the new root: {step}");
                is_inside = true;
            }
            // The store is made read-only where it is, in the mount namespace of the sandbox.
            Step::Bind { source, target, .. } if source == target && path_of(source) == store => continue,
            Step::PivotRoot => is_over = true,
            _ => {}
        }
        let Some((place, is_link)) = place_of(step) else { continue };
        assert!(!is_over, "after the root was changed: {step}");
        assert!(is_inside, "before the new root is entered: {step}");
        let below = path_of(place).to_owned();
        assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "up from the new root: {step}");
        let on_the_way: Vec<PathBuf> = below.ancestors().map(Path::to_owned).collect();
        assert!(!on_the_way.iter().any(|path| links.contains(path)), "through a link: {step}");
        if is_link {
            links.insert(below);
        }
    }
    assert!(is_over, "the root is never changed");
}

/// Names that mean something in the sandbox, and ways to leave a directory.
fn target() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "..",
        ".",
        "",
        "build",
        "bin",
        "sh",
        "dev",
        "pts",
        "fd",
        "shm",
        "null",
        "etc",
        "passwd",
        "nix",
        "store",
        "proc",
        "self",
        "root",
        "tmp",
        "usr",
        "x",
        ".nix-build-shell",
    ]);
    prop::collection::vec(name, 1..6).prop_map(|names| format!("/{}", names.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_step_names_a_place_outside_of_the_new_root(
        wanted in prop::collection::vec((target(), 0..6usize, any::<bool>()), 0..6),
        build_directory in prop::sample::select(vec!["/build", "/a/b/c", "/tmp/x", "/nix/build"]),
        is_multi_user in any::<bool>(),
        has_network in any::<bool>(),
    ) {
        let host = tempfile::tempdir().unwrap();
        let at = |name: &str| host.path().join(name);
        std::fs::create_dir_all(at("directory/below")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("/", at("link-to-root")).unwrap();
        std::os::unix::fs::symlink("../..", at("directory/up")).unwrap();
        let sources = ["directory", "file", "link-to-root", "directory/up", "directory/below", "missing"];
        let host_paths = wanted.iter().filter_map(|(target, source, writable)| {
            let path = SandboxPath::parse(format!("{target}={}?", at(sources[*source]).display())).ok()?;
            Some(HostPath { path, access: if *writable { HostAccess::Writable } else { HostAccess::ReadOnly } })
        });
        let kind = if is_multi_user { Kind::MultiUser } else { Kind::SingleUser };
        if let Some(plan) = plan_with(host_paths.collect(), build_directory, kind, has_network) {
            check_places(&plan);
        }
    }

    #[test]
    fn a_sandbox_path_has_a_place_below_the_root_whatever_is_written(text in prop::collection::vec(any::<u8>(), 0..40)) {
        let with_slash = [b"/", text.as_slice()].concat();
        for text in [text, with_slash] {
            if let Ok(path) = SandboxPath::parse(OsStr::from_bytes(&text)) {
                let mut parts = path.target.components();
                prop_assert_eq!(parts.next(), Some(Component::RootDir));
                let names: Vec<_> = parts.collect();
                prop_assert!(!names.is_empty());
                prop_assert!(names.iter().all(|name| matches!(name, Component::Normal(_))));
                prop_assert!(path.source.is_absolute());
                prop_assert!(!path.target.as_os_str().as_bytes().contains(&0));
            }
        }
    }

    #[test]
    fn an_id_map_maps_one_id_and_no_other(uid in any::<u32>(), gid in any::<u32>()) {
        let maps = IdMaps {
            uid: IdMap { inside: SANDBOX_UID, outside: uid },
            gid: IdMap { inside: SANDBOX_GID, outside: gid },
        };
        prop_assert_eq!(maps.uid.to_string(), format!("1000 {uid} 1"));
        prop_assert_eq!(maps.gid.to_string(), format!("100 {gid} 1"));
    }
}

#[test]
fn the_check_sees_a_place_outside() {
    for place in [c"/etc/passwd", c"../x", c"etc/../../x", c"dev/fd/7"] {
        let mut plan = plan_with(Vec::new(), "/build", Kind::SingleUser, false).unwrap();
        check_places(&plan);
        let last = plan.steps.iter().position(|step| *step == Step::PivotRoot).unwrap();
        plan.steps.insert(last, Step::MakeDirectory { path: place.into(), mode: 0o700 });
        assert!(std::panic::catch_unwind(|| check_places(&plan)).is_err(), "{place:?}");
    }
}
