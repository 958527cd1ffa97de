//! Against databases with Nix's schema.

#[path = "../../../benches/fixture/store_database.rs"]
mod fixture;

use std::fmt;
use std::fs;
use std::time::SystemTime;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::nix::store_records::{InvalidPaths, Output};

const HASH: &str = "00000000000000000000000000000000";
const NOTHING: [&Path; 0] = [];

fn named(name: &str) -> PathBuf {
    PathBuf::from(format!("/nix/store/{HASH}-{name}"))
}

/// A store below a directory of its own, and a connection that writes to its database.
struct Written {
    root: TempDir,
    writer: Connection,
}

impl Written {
    fn new() -> Self {
        let root = TempDir::new().expect("a temporary directory");
        let database = root.path().join("nix/var/nix/db");
        fs::create_dir_all(&database).expect("a directory");
        let writer = fixture::create(&database.join("db.sqlite")).expect("a database");
        Self { root, writer }
    }

    /// A store in which `a.drv` makes `a` and `a-dev`, and `b` refers to `a`, which refers to `c`, and that to itself.
    fn with_three_packages() -> Self {
        let written = Self::new();
        written.add("a.drv", 10);
        for name in ["a", "b", "c"] {
            written.add(name, 20);
        }
        written.add_output("a.drv", "out", "a");
        written.add_output("a.drv", "dev", "a-dev");
        for (referrer, reference) in [("b", "a"), ("a", "c"), ("c", "c"), ("c", "a")] {
            written.add_reference(referrer, reference);
        }
        written
    }

    fn add(&self, name: &str, time: u32) {
        let path = named(name).to_str().map(str::to_owned);
        let sql = "insert into ValidPaths (path, hash, registrationTime) values (?1, 'sha256:0', ?2)";
        self.writer.execute(sql, (path, time)).expect("a valid path");
    }

    fn add_output(&self, derivation: &str, output: &str, name: &str) {
        let sql = "insert into DerivationOutputs (drv, id, path) select id, ?2, ?3 from ValidPaths where path = ?1";
        let paths = [named(derivation), named(name)].map(|path| path.to_str().map(str::to_owned));
        self.writer.execute(sql, (&paths[0], output, &paths[1])).expect("an output");
    }

    fn add_reference(&self, referrer: &str, reference: &str) {
        let sql =
            "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ?1 and b.path = ?2";
        let paths = [named(referrer), named(reference)].map(|path| path.to_str().map(str::to_owned));
        self.writer.execute(sql, paths).expect("a reference");
    }

    /// A copy has the files and nobody's locks on them.
    fn as_if_it_died(&self) -> TempDir {
        let copy = TempDir::new().expect("a temporary directory");
        let directory = copy.path().join("nix/var/nix/db");
        fs::create_dir_all(&directory).expect("a directory");
        for (name, _, bytes) in files(&self.root) {
            fs::write(directory.join(name), bytes).expect("a copy");
        }
        copy
    }

    /// The last to close the database clears up beside it.
    fn close(self) -> TempDir {
        self.writer.close().expect("the database closes");
        self.root
    }
}

fn open(root: &TempDir) -> Result<StoreRecords> {
    Store::in_root(root.path())?.open()
}

/// Name, time of the last change, and bytes of the database and every file beside it.
fn files(root: &TempDir) -> Vec<(OsString, SystemTime, Vec<u8>)> {
    let entries = fs::read_dir(root.path().join("nix/var/nix/db")).expect("the directory of the database");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let changed = entry.metadata().expect("a file").modified().expect("a time");
            (entry.file_name(), changed, fs::read(entry.path()).expect("its bytes"))
        })
        .collect();
    files.sort();
    files
}

/// Fails without printing all the bytes.
fn assert_untouched(root: &TempDir, before: &[(OsString, SystemTime, Vec<u8>)]) {
    let after = files(root);
    let names: Vec<_> = after.iter().map(|(name, ..)| name).collect();
    assert!(after == before, "something was written to {names:?}");
}

fn closure_of(records: &mut StoreRecords, names: &[&str]) -> Vec<PathBuf> {
    let roots: Vec<_> = names.iter().map(|name| named(name)).collect();
    records.closure(&roots).expect("a closure")
}

fn complaint<T: fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.expect_err("a refusal"))
}

#[test]
fn a_closure_has_its_roots_and_all_that_they_refer_to_sorted_and_once() {
    let root = Written::with_three_packages().close();
    let mut records = open(&root).expect("records");
    assert_eq!(closure_of(&mut records, &["b"]), ["a", "b", "c"].map(named));
    assert_eq!(closure_of(&mut records, &["c", "a", "c"]), ["a", "c"].map(named));
    assert_eq!(closure_of(&mut records, &["a.drv"]), [named("a.drv")]);
    assert_eq!(closure_of(&mut records, &[]), NOTHING);
}

#[test]
fn closures_in_a_large_store_are_complete() {
    let mut written = Written::new();
    fixture::fill(&mut written.writer, 1200).expect("paths");
    let root = written.close();
    let mut records = open(&root).expect("records");
    let mut begin = 0;
    for size in fixture::CLOSURES {
        let closure = records.closure(&[fixture::store_path(fixture::root_of_closure(size))]).expect("a closure");
        let mut expected: Vec<_> = (begin..begin + size).map(fixture::store_path).map(PathBuf::from).collect();
        expected.sort();
        assert_eq!(closure, expected);
        begin += size;
    }
}

#[test]
fn roots_that_are_not_valid_are_named() {
    let root = Written::with_three_packages().close();
    let error =
        open(&root).expect("records").closure(&[named("z"), named("a"), named("y"), named("z")]).expect_err("invalid");
    assert_eq!(error.downcast_ref(), Some(&InvalidPaths(vec![named("y"), named("z")])));
    assert_eq!(
        error.to_string(),
        format!(
            "the store does not have (any more): {y}, {z}; «nix-store --realise {y} {z}» brings back what a substituter has",
            y = named("y").display(),
            z = named("z").display()
        )
    );
    let many = InvalidPaths(["a", "b", "c", "d", "e"].map(named).into()).to_string();
    assert!(many.contains(" and 2 more; ") && !many.contains("-d"), "{many}");
}

#[test]
fn what_is_no_store_path_is_refused() {
    let root = Written::new().close();
    let mut records = open(&root).expect("records");
    for path in ["/etc/passwd", "a", "/nix/store/x", &named("a/bin").display().to_string()] {
        let said = complaint(records.closure(&[path]));
        assert_eq!(said, format!("{path:?} is no store path in /nix/store"));
        assert!(records.is_valid(path.as_ref()).is_err() && records.derivers_of_output(path.as_ref()).is_err());
    }
}

#[test]
fn an_output_that_was_never_built_has_derivers_the_newest_first() {
    let written = Written::new();
    for (name, time) in [("old.drv", 1), ("new.drv", 3), ("middle.drv", 2)] {
        written.add(name, time);
        written.add_output(name, "out", "a");
    }
    let root = written.close();
    let mut records = open(&root).expect("records");
    assert_eq!(
        records.derivers_of_output(&named("a")).expect("derivers"),
        ["new.drv", "middle.drv", "old.drv"].map(named)
    );
    assert_eq!(records.derivers_of_output(&named("b")).expect("none"), NOTHING);
    assert!(
        !records.is_valid(&named("a")).expect("an answer") && records.is_valid(&named("new.drv")).expect("an answer")
    );
}

#[test]
fn derivations_are_found_by_their_whole_name() {
    let written = Written::new();
    for name in ["hello-1.drv", "say-hello-1.drv", "hello-1", "hello-1.drv.drv", "hello-11.drv", "HELLO-1.drv"] {
        written.add(name, 1);
    }
    let newer = format!("/nix/store/1{}-hello-1.drv", &HASH[1..]);
    let sql = "insert into ValidPaths (path, hash, registrationTime) values (?1, '', 2)";
    written.writer.execute(sql, [&newer]).expect("a valid path");
    let root = written.close();
    let mut records = open(&root).expect("records");
    assert_eq!(records.derivations_named("hello-1").expect("two"), [newer.into(), named("hello-1.drv")]);
    assert_eq!(records.derivations_named("%").expect("none"), NOTHING);
}

#[test]
fn the_inputs_of_a_build_are_its_sources_and_the_wanted_outputs() {
    let written = Written::with_three_packages();
    written.add("source", 1);
    written.add("a-dev", 1);
    written.add("floating.drv", 1);
    let root = written.close();
    let mut records = open(&root).expect("records");
    let outputs = records.output_paths_of(&named("a.drv")).expect("outputs");
    let output = |name: &str, path| Output { name: name.into(), path: named(path) };
    assert_eq!(outputs, [output("dev", "a-dev"), output("out", "a")]);

    let mut inputs = |derivation: &str, wanted: &str| {
        records.input_closure(&[named("source")], &[(named(derivation), vec![wanted.to_owned()])])
    };
    assert_eq!(inputs("a.drv", "out").expect("a closure"), ["a", "c", "source"].map(named));
    assert_eq!(inputs("a.drv", "dev").expect("a closure"), ["a-dev", "source"].map(named));
    assert!(complaint(inputs("a.drv", "doc")).ends_with("-a.drv has no output «doc» on record"));
    assert!(complaint(inputs("floating.drv", "out")).ends_with("it is addressed by its content"));
    let missing = inputs("z.drv", "out").expect_err("invalid");
    assert_eq!(missing.downcast_ref(), Some(&InvalidPaths(vec![named("z.drv")])));
}

#[test]
fn path_infos_are_those_on_record() {
    let written = Written::with_three_packages();
    let hash = "sha256:00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    written.writer.execute("update ValidPaths set hash = ?1", [hash]).expect("a hash");
    let sql = "update ValidPaths set narSize = 7, ca = 'fixed:r:sha256:x' where path like '%-a'";
    written.writer.execute(sql, []).expect("more of it");
    let root = written.close();
    let mut records = open(&root).expect("records");
    let infos = records.path_infos(&["c", "a"].map(named)).expect("path infos");
    assert_eq!(infos.iter().map(|info| &info.path).collect::<Vec<_>>(), [&named("c"), &named("a")]);
    let hash: Vec<u8> = (0..32).map(|byte| byte % 16 * 0x11).collect();
    assert_eq!(infos[0].nar_hash, hash.as_slice());
    assert_eq!(infos[0].references, ["a", "c"].map(named));
    assert_eq!(infos[1].references, ["c"].map(named));
    let others = infos.iter().map(|info| (info.nar_size, info.content_address.as_deref()));
    assert_eq!(others.collect::<Vec<_>>(), [(0, None), (7, Some("fixed:r:sha256:x"))]);
    let said = complaint(records.path_infos(&["a", "a-dev"].map(named)));
    assert!(said.contains("does not have (any more): /nix/store/") && said.contains("-a-dev;"), "{said}");
}

#[test]
fn a_hash_that_is_none_is_told() {
    let root = Written::with_three_packages().close();
    let said = complaint(open(&root).expect("records").path_infos(&[named("a")]));
    assert!(said.contains(r#"has "sha256:0" where"#), "{said}");
}

#[test]
fn a_database_at_rest_is_read_without_a_trace() {
    let root = Written::with_three_packages().close();
    let before = files(&root);
    assert_eq!(before.len(), 1);
    let mut records = open(&root).expect("records");
    assert_eq!(closure_of(&mut records, &["b"]).len(), 3);
    assert_untouched(&root, &before);
    drop(records);
    assert_untouched(&root, &before);
}

#[test]
fn what_a_writer_has_committed_is_seen() {
    let written = Written::with_three_packages();
    written.writer.execute_batch("pragma wal_checkpoint(truncate)").expect("a checkpoint");
    written.add("new", 30);
    let mut records = open(&written.root).expect("records");
    assert!(records.is_valid(&named("new")).expect("an answer"));
    // All questions are about the same moment.
    written.add("newer", 30);
    assert!(!records.is_valid(&named("newer")).expect("an answer"));
}

#[test]
fn what_a_dead_writer_has_committed_is_seen_and_left_alone() {
    let written = Written::with_three_packages();
    written.add("new", 30);
    let copy = written.as_if_it_died();
    let before = files(&copy);
    let mut records = open(&copy).expect("records");
    assert!(records.is_valid(&named("new")).expect("an answer"));
    drop(records);
    assert_untouched(&copy, &before);

    fs::remove_file(copy.path().join("nix/var/nix/db/db.sqlite-shm")).expect("one of three");
    let before = files(&copy);
    let source = open(&copy).expect("nix-store is to be asked").source();
    assert!(source.starts_with("nix-store, since ") && source.contains("only Nix itself can read it"), "{source}");
    assert_untouched(&copy, &before);
}

#[test]
fn what_changes_while_it_is_read_is_read_again() {
    let written = Written::with_three_packages();
    let file = written.root.path().join("nix/var/nix/db/db.sqlite");
    let root = written.close();
    let mut records = open(&root).expect("records");
    assert!(!records.is_valid(&named("new")).expect("an answer"));
    let written = Written { root, writer: Connection::open(file).expect("the database") };
    written.add("new", 30);
    let root = written.close();
    assert!(records.is_valid(&named("new")).expect("an answer"));
    drop(root);
}

#[test]
fn the_older_journal_modes_are_read_too_also_while_somebody_writes() {
    let written = Written::with_three_packages();
    written.writer.pragma_update(None, "journal_mode", "truncate").expect("another mode");
    assert!(open(&written.root).expect("records").is_valid(&named("a")).expect("an answer"));
    written.writer.execute_batch("begin immediate").expect("a transaction");
    written.add("uncommitted", 30);
    let before = files(&written.root);
    assert!(before.len() == 2 && !before[1].2.is_empty(), "there is a journal, and it has content");
    let mut records = open(&written.root).expect("records");
    assert!(records.is_valid(&named("a")).expect("an answer"));
    assert!(!records.is_valid(&named("uncommitted")).expect("an answer"));
    assert_untouched(&written.root, &before);
}

#[test]
fn what_was_never_committed_is_left_to_nix_to_undo() {
    let written = Written::with_three_packages();
    written.writer.pragma_update(None, "journal_mode", "truncate").expect("another mode");
    // So small a cache that the database itself is written to.
    written.writer.execute_batch("pragma cache_size = 1; begin immediate").expect("a transaction");
    (0..200).for_each(|number| written.add(&format!("uncommitted-{number}"), 30));
    let copy = written.as_if_it_died();
    let before = files(&copy);
    let source = open(&copy).expect("nix-store is to be asked").source();
    assert!(source.starts_with("nix-store, since "), "{source}");
    assert_untouched(&copy, &before);
}

#[test]
fn a_path_that_leads_elsewhere_does_not_come_out() {
    let written = Written::with_three_packages();
    written
        .writer
        .execute_batch("update ValidPaths set path = '/nix/store/../../etc' where path like '%-c'")
        .expect("a lie");
    let said = complaint(open(&written.root).expect("records").closure(&[named("b")]));
    assert!(said.contains("has \"/nix/store/../../etc\" where a path in /nix/store"), "{said}");
}

#[test]
fn what_cannot_be_read_is_told_in_a_sentence() {
    let root = TempDir::new().expect("a temporary directory");
    let file = root.path().join("nix/var/nix/db/db.sqlite");
    let shown = file.display();
    assert_eq!(complaint(open(&root)), format!("there is no Nix database {shown}"));
    fs::create_dir_all(&file).expect("a directory");
    let said = complaint(open(&root));
    assert!(said.starts_with(&format!("cannot read the Nix database {shown}: ")), "{said}");
    fs::remove_dir(&file).expect("an empty directory");
    fs::write(&file, "a text that is no database, and long enough to have the header of one".repeat(9))
        .expect("a file");
    assert_eq!(complaint(open(&root)), format!("{shown} is not a Nix database, nor any other of SQLite's"));
    fs::write(&file, "").expect("a file");
    let said = complaint(open(&root).and_then(|mut records| records.closure(&[named("a")])));
    assert_eq!(said, format!("{shown} is no Nix database of a known kind: no such table: ValidPaths"));
}

#[test]
fn a_root_with_any_character_is_found() {
    let written = Written::with_three_packages();
    let odd = written.root.path().join("a b?immutable=0#%41é");
    fs::create_dir_all(&odd).expect("a directory");
    let root = written.close();
    fs::rename(root.path().join("nix"), odd.join("nix")).expect("a store");
    let mut records = Store::in_root(&odd).and_then(|store| store.open()).expect("records");
    assert!(records.is_valid(&named("a")).expect("an answer"));
}

fn from(variables: &[(&str, &str)]) -> Result<Store> {
    Store::from_variables(&|name| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into()))
}

fn places(store: &Store) -> [&str; 3] {
    [store.directory(), store.physical_directory(), store.state_directory()]
        .map(|path| path.to_str().unwrap_or_default())
}

#[test]
fn the_environment_says_where_the_store_is() {
    let default = ["/nix/store", "/nix/store", "/nix/var/nix"];
    let chroot = ["/nix/store", "/r/nix/store", "/r/nix/var/nix"];
    for (variables, expected) in [
        (&[("NIX_STORE_DIR", ""), ("NIX_STATE_DIR", "/nix/var/nix"), ("NIX_REMOTE", "")][..], default),
        (&[("NIX_STORE_DIR", "/s//x/../t/"), ("NIX_STATE_DIR", "/v/./w")], ["/s/t", "/s/t", "/v/w"]),
        (&[("NIX_REMOTE", "daemon")], default),
        (&[("NIX_REMOTE", "auto")], default),
        (&[("NIX_REMOTE", "unix:///run/socket")], default),
        (&[("NIX_REMOTE", "ssh-ng://builder?root=/r")], default),
        (&[("NIX_REMOTE", "/r/")], chroot),
        (&[("NIX_REMOTE", "local:///r")], chroot),
        (&[("NIX_REMOTE", "local?root=/r&require-sigs=false")], chroot),
        (&[("NIX_REMOTE", "unix:///run/socket?root=/r")], chroot),
        (&[("NIX_REMOTE", "local?root=/a%20b+c")], ["/nix/store", "/a b+c/nix/store", "/a b+c/nix/var/nix"]),
        (&[("NIX_REMOTE", "/r?store=/s&real=/p&state=/v")], ["/s", "/p", "/v"]),
        (&[("NIX_REMOTE", "local?store=/s"), ("NIX_STATE_DIR", "/v")], ["/s", "/s", "/v"]),
    ] {
        let store = from(variables).expect("a store");
        assert_eq!(places(&store), expected, "{variables:?}");
    }
    assert_eq!(
        complaint(from(&[("NIX_STORE_DIR", "s")])),
        "NIX_STORE_DIR is \"s\", and Nix takes only an absolute path"
    );
    assert_eq!(complaint(from(&[("NIX_REMOTE", "demon")])), "NIX_REMOTE is \"demon\", which names no store");
}

#[test]
fn logs_are_below_the_root_or_where_the_environment_says() {
    for (variables, expected) in [
        (&[][..], "/nix/var/log/nix"),
        (&[("NIX_STATE_DIR", "/v")], "/nix/var/log/nix"),
        (&[("NIX_LOG_DIR", "/l/./x")], "/l/x"),
        (&[("NIX_LOG_DIR", "/l"), ("NIX_REMOTE", "daemon")], "/l"),
        (&[("NIX_LOG_DIR", "/l"), ("NIX_REMOTE", "/r")], "/r/nix/var/log/nix"),
        (&[("NIX_REMOTE", "/r?log=/m")], "/m"),
    ] {
        assert_eq!(from(variables).expect("a store").log_directory(), Path::new(expected), "{variables:?}");
    }
    let chroot = Store::in_root(Path::new("/r")).expect("a store");
    assert_eq!(chroot.log_directory(), Path::new("/r/nix/var/log/nix"));
}

#[test]
fn a_file_in_the_store_is_where_the_store_is() {
    let store = Store::in_root(Path::new("/r/../r2")).expect("a store");
    assert_eq!(
        store.physical(&named("a/bin")),
        Path::new("/r2").join(named("a/bin").strip_prefix("/").expect("absolute"))
    );
    assert_eq!(store.physical(Path::new("/nix/storex")), Path::new("/nix/storex"));
    assert!(store.is_store_path(&named("a")) && !store.is_store_path(&named("a/bin")));
    assert!(Store::in_root(Path::new("")).is_err());
}
