//! Nix's database of a store, read without a trace: no lock file, no journal, no shared memory is made or written.
//!
//! SQLite alone cannot do that. In its WAL mode, which Nix uses, the last to close the database removes `-wal` and `-shm` beside
//! it, and whoever opens it next makes them again: an ordinary user may not, and what root makes by opening read-only remains.
//! So there are two ways in:
//!
//! - Nobody is writing, that is, `-wal` and `-journal` are absent or empty: all that was ever committed is in the one file, and
//!   `immutable=1` reads that and nothing else, without locks. Should the file change meanwhile, the answer is thrown away and
//!   the question asked again.
//! - Somebody is writing, or died at it: what was committed last may be in `-wal` only, where `immutable=1` does not look. Then
//!   `mode=ro` takes part in SQLite's locking, and `readonly_shm=1` keeps it, and root above all, from writing to `-shm`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Params, Row, Statement, params};

use super::store_path::{is_store_path, length_before_name};
use super::store_records::{InvalidPaths, Output, PathInfo};

/// How long a writer in SQLite's older journal modes may keep us waiting.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the way in is chosen anew when the database changes between the look at it and the read; the last waits are long
/// enough for any Nix command to end a transaction.
const ATTEMPTS: u32 = 8;

/// A store's database, opened.
#[derive(Debug)]
pub(super) struct StoreDatabase {
    file: PathBuf,
    store_directory: PathBuf,
    connection: Connection,
    /// What the file was before it was read without locks.
    unlocked: Option<Stamp>,
}

/// Why a database cannot be opened.
#[derive(Debug)]
pub(super) struct CannotOpen {
    /// The reason, in words.
    pub reason: String,
    /// Who may be able to.
    pub who_can: WhoCan,
}

/// Who may be able to open a database that we cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhoCan {
    /// Any Nix command: through a daemon that has the rights, or because Nix may repair what a crash left.
    Nix,
    /// A daemon alone, which may have a database where we see none, as in a container that is given no more than its socket.
    Daemon,
    /// Nobody.
    Nobody,
}

/// By what a change of a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> std::io::Result<Self> {
        let status = fs::metadata(file)?;
        Ok(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        })
    }
}

impl StoreDatabase {
    /// Opens the database `file` of the store whose paths are in `store_directory`.
    pub(super) fn open(file: &Path, store_directory: &Path) -> Result<Self, CannotOpen> {
        let (connection, unlocked) = connect(file)?;
        Ok(Self { file: file.to_owned(), store_directory: store_directory.to_owned(), connection, unlocked })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn derivers_of_output(&mut self, output: &Path) -> Result<Vec<PathBuf>> {
        self.ask(|database| {
            database.paths(
                "select v.path from DerivationOutputs o join ValidPaths v on v.id = o.drv
                 where o.path = ?1 order by v.registrationTime desc, v.id desc",
                [text(output)],
            )
        })
    }

    pub(super) fn derivations_named(&mut self, name: &str) -> Result<Vec<PathBuf>> {
        let begin = length_before_name(&self.store_directory) + 1;
        self.ask(|database| {
            // The inner query reads the index of the paths and not the much larger table.
            database.paths(
                "select path from ValidPaths
                 where id in (select id from ValidPaths where substr(path, ?1) = ?2 || '.drv')
                 order by registrationTime desc, id desc",
                params![begin as i64, name],
            )
        })
    }

    pub(super) fn is_valid(&mut self, path: &Path) -> Result<bool> {
        let found = self.ask(|database| database.paths("select path from ValidPaths where path = ?1", [text(path)]))?;
        Ok(!found.is_empty())
    }

    pub(super) fn outputs_of_all(&mut self, derivations: &[&Path]) -> Result<Vec<(PathBuf, Output)>> {
        self.ask(|database| {
            let mut outputs = database.prepare(
                "select o.id, o.path from ValidPaths v join DerivationOutputs o on o.drv = v.id where v.path = ?1",
            )?;
            let mut all = Vec::new();
            for derivation in derivations {
                database.each(&mut outputs, [text(derivation)], |row| {
                    let name = database.text(row, 0)?;
                    let name = String::from_utf8(name.to_owned()).map_err(|_| database.is_odd(name))?;
                    all.push((derivation.to_path_buf(), Output { name, path: database.path(row, 1)? }));
                    Ok(())
                })?;
            }
            Ok(all)
        })
    }

    /// A recursive query would be one statement instead of three, and takes half as long again: SQLite keeps the rows that it
    /// has seen in a tree on pages.
    pub(super) fn closure(&mut self, roots: &[&Path]) -> Result<Vec<PathBuf>> {
        self.ask(|database| {
            let mut ids = Vec::new();
            let mut seen = HashSet::new();
            let mut missing = Vec::new();
            let mut id_of = database.prepare("select id from ValidPaths where path = ?1")?;
            for root in roots {
                let mut is_valid = false;
                database.each(&mut id_of, [text(root)], |row| {
                    is_valid = true;
                    database.note(row, &mut seen, &mut ids)
                })?;
                if !is_valid {
                    missing.push(root.to_path_buf());
                }
            }
            if !missing.is_empty() {
                return Err(InvalidPaths::new(missing).into());
            }
            // The index of the primary key holds both columns of Refs, so the table itself is never read.
            let mut references = database
                .prepare("select reference from Refs indexed by sqlite_autoindex_Refs_1 where referrer = ?1")?;
            let mut followed = 0;
            while let Some(id) = ids.get(followed).copied() {
                followed += 1;
                database.each(&mut references, [id], |row| database.note(row, &mut seen, &mut ids))?;
            }
            // Neighbours are on the same page.
            ids.sort_unstable();
            let mut path_of = database.prepare("select path from ValidPaths where id = ?1")?;
            let mut closure = Vec::with_capacity(ids.len());
            for id in ids {
                database.each(&mut path_of, [id], |row| {
                    closure.push(database.path(row, 0)?);
                    Ok(())
                })?;
            }
            // By bytes; paths compare themselves by components, which takes ten times as long.
            closure.sort_unstable_by(|one: &PathBuf, other| one.as_os_str().cmp(other.as_os_str()));
            Ok(closure)
        })
    }

    pub(super) fn path_infos(&mut self, paths: &[&Path]) -> Result<Vec<PathInfo>> {
        self.ask(|database| {
            let mut of_path = database.prepare("select id, hash, narSize, ca from ValidPaths where path = ?1")?;
            let mut references = database.prepare(
                "select v.path from Refs r join ValidPaths v on v.id = r.reference where r.referrer = ?1 order by v.path",
            )?;
            let mut infos: Vec<PathInfo> = Vec::with_capacity(paths.len());
            let mut missing = Vec::new();
            for path in paths {
                let mut id = None;
                database.each(&mut of_path, [text(path)], |row| {
                    let hash = database.text(row, 1)?;
                    let nar_size: Option<i64> = database.value(row, 2)?;
                    infos.push(PathInfo {
                        path: path.to_path_buf(),
                        nar_hash: PathInfo::nar_hash_of(hash).ok_or_else(|| database.is_odd(hash))?,
                        nar_size: nar_size.unwrap_or(0).cast_unsigned(),
                        references: Vec::new(),
                        content_address: database.value(row, 3)?,
                    });
                    id = Some(database.value::<i64>(row, 0)?);
                    Ok(())
                })?;
                match (id, infos.last_mut()) {
                    (Some(id), Some(info)) => database.each(&mut references, [id], |row| {
                        info.references.push(database.path(row, 0)?);
                        Ok(())
                    })?,
                    _ => missing.push(path.to_path_buf()),
                }
            }
            if missing.is_empty() { Ok(infos) } else { Err(InvalidPaths::new(missing).into()) }
        })
    }

    /// Asks until the answer is of a database that nobody changed meanwhile.
    fn ask<T>(&mut self, question: impl Fn(&Self) -> Result<T>) -> Result<T> {
        for attempt in 0..ATTEMPTS {
            let answer = question(self);
            match self.unlocked {
                Some(before) if Stamp::of(&self.file).ok() != Some(before) => {
                    wait(attempt);
                    (self.connection, self.unlocked) =
                        connect(&self.file).map_err(|refusal| anyhow!(refusal.reason))?;
                }
                _ => return answer,
            }
        }
        bail!("the Nix database {} changes faster than it can be read; try again", self.file.display())
    }

    fn paths(&self, sql: &str, parameters: impl Params) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        self.each(&mut self.prepare(sql)?, parameters, |row| {
            paths.push(self.path(row, 0)?);
            Ok(())
        })?;
        Ok(paths)
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>> {
        self.connection.prepare(sql).map_err(|error| self.in_words(&error))
    }

    /// Does `work` with each row of the answer.
    fn each(
        &self,
        statement: &mut Statement<'_>,
        parameters: impl Params,
        mut work: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut rows = statement.query(parameters).map_err(|error| self.in_words(&error))?;
        while let Some(row) = rows.next().map_err(|error| self.in_words(&error))? {
            work(row)?;
        }
        Ok(())
    }

    fn in_words(&self, error: &rusqlite::Error) -> anyhow::Error {
        anyhow!(refusal(&self.file, error).reason)
    }

    /// Notes the id in the row's first column, unless it was seen before.
    fn note(&self, row: &Row<'_>, seen: &mut HashSet<i64>, ids: &mut Vec<i64>) -> Result<()> {
        let id = self.value(row, 0)?;
        if seen.insert(id) {
            ids.push(id);
        }
        Ok(())
    }

    /// A store path. What is none must not become a file that somebody mounts.
    fn path(&self, row: &Row<'_>, column: usize) -> Result<PathBuf> {
        let bytes = self.text(row, column)?;
        let path = Path::new(OsStr::from_bytes(bytes));
        if is_store_path(&self.store_directory, path) { Ok(path.to_owned()) } else { Err(self.is_odd(bytes)) }
    }

    fn value<T: FromSql>(&self, row: &Row<'_>, column: usize) -> Result<T> {
        row.get(column).map_err(|error| self.in_words(&error))
    }

    fn text<'a>(&self, row: &'a Row<'_>, column: usize) -> Result<&'a [u8]> {
        match row.get_ref(column) {
            Ok(ValueRef::Text(bytes)) => Ok(bytes),
            _ => Err(self.is_odd(b"something that is no text")),
        }
    }

    fn is_odd(&self, value: &[u8]) -> anyhow::Error {
        anyhow!(
            "the Nix database {} has {:?} where a path in {}, a hash or the name of an output has to be",
            self.file.display(),
            OsStr::from_bytes(value),
            self.store_directory.display()
        )
    }
}

fn text(path: &Path) -> &str {
    // Store paths are ASCII; what is not would not be found.
    path.to_str().unwrap_or_default()
}

/// Chooses the way in, again if it closes at that moment.
fn connect(file: &Path) -> Result<(Connection, Option<Stamp>), CannotOpen> {
    let mut attempt = 0;
    loop {
        // In this order: what is committed after the first line shows in one of the two.
        let stamp = Stamp::of(file).map_err(|error| refusal_of_file(file, &error))?;
        let unlocked = (!has_content(file, "-wal") && !has_content(file, "-journal")).then_some(stamp);
        let parameters = if unlocked.is_some() { "immutable=1" } else { "mode=ro&readonly_shm=1" };
        match begin_reading(file, parameters) {
            Ok(connection) => return Ok((connection, unlocked)),
            Err(error) => {
                attempt += 1;
                let may_change = match unlocked {
                    Some(before) => Stamp::of(file).ok() != Some(before),
                    None => matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)),
                };
                if attempt == ATTEMPTS || !may_change {
                    // SQLite does not say what the kernel said.
                    File::open(file).map_err(|error| refusal_of_file(file, &error))?;
                    return Err(refusal(file, &error));
                }
                wait(attempt);
            }
        }
    }
}

fn has_content(file: &Path, suffix: &str) -> bool {
    let mut name = OsString::from(file);
    name.push(suffix);
    fs::metadata(name).is_ok_and(|status| status.len() > 0)
}

/// 1, 2, 4, … milliseconds.
fn wait(attempt: u32) {
    thread::sleep(Duration::from_millis(1 << attempt));
}

/// SQLite reads nothing before the first question. The transaction makes all questions see the same state, and saves the locks
/// of each.
fn begin_reading(file: &Path, parameters: &str) -> rusqlite::Result<Connection> {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');
    let url = format!("file:{}?{parameters}", percent_encode(file.as_os_str().as_bytes(), KEEP));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(PathBuf::from(OsString::from_vec(url.into_bytes())), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("begin; select 1 from sqlite_schema limit 0")?;
    Ok(connection)
}

fn refusal_of_file(file: &Path, error: &std::io::Error) -> CannotOpen {
    let file = file.display();
    let (reason, who_can) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (format!("there is no Nix database {file}"), WhoCan::Daemon),
        ErrorKind::PermissionDenied => (format!("you may not read the Nix database {file}"), WhoCan::Nix),
        _ => (format!("cannot read the Nix database {file}: {error}"), WhoCan::Nobody),
    };
    CannotOpen { reason, who_can }
}

/// What an answer of SQLite means.
fn refusal(file: &Path, error: &rusqlite::Error) -> CannotOpen {
    let file = file.display();
    let said = error.to_string();
    let (reason, who_can) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            (format!("{file} is not a Nix database, nor any other of SQLite's"), WhoCan::Nobody)
        }
        Some(ErrorCode::DatabaseCorrupt) => (format!("the Nix database {file} is damaged"), WhoCan::Nobody),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (format!("the Nix database {file} has been locked for seconds on end"), WhoCan::Nix)
        }
        // There is content in -wal or -journal, and no way to read it without repairing the database.
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => (
            format!("a Nix process that died left the database {file} so that only Nix itself can read it"),
            WhoCan::Nix,
        ),
        _ if ["no such table", "no such column", "no such index"].iter().any(|lack| said.contains(lack)) => {
            (format!("{file} is no Nix database of a known kind: {}", first_line(&said)), WhoCan::Nobody)
        }
        _ => (format!("cannot read the Nix database {file}: {}", first_line(&said)), WhoCan::Nobody),
    };
    CannotOpen { reason, who_can }
}

/// rusqlite adds the statement.
fn first_line(said: &str) -> &str {
    said.split_once(" in ").map_or(said, |(before, _)| before).lines().next().unwrap_or_default()
}
