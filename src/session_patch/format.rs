//! Writes changes in the form of git's patches, which `git apply` and `patch -p1` both take: see [`git-diff(1)`], «Generating
//! patch text with -p».
//!
//! [`git-diff(1)`]: https://git-scm.com/docs/git-diff#_generating_patch_text_with_p

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use similar::{Algorithm, DiffTag, capture_diff_slices_deadline, group_diff_ops};

/// Lines around a change.
const CONTEXT: usize = 3;
/// How much of a file git looks at to tell text from binary content.
const PROBE: usize = 8000;
/// How long the fewest changes of one file are looked for, before any that are right will do.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A file or a symbolic link at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Below the directory that the patch is applied in.
    pub path: Vec<u8>,
    pub mode: FileMode,
    /// Of a link: where it leads.
    pub content: Vec<u8>,
}

impl Version {
    /// Whether git would take it for text.
    pub fn is_text(&self) -> bool {
        !self.content.iter().take(PROBE).any(|byte| *byte == 0)
    }
}

/// The modes that git knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileMode {
    Plain,
    Executable,
    Link,
}

impl FileMode {
    fn digits(self) -> &'static str {
        match self {
            Self::Plain => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
        }
    }

    pub fn is_link(self) -> bool {
        self == Self::Link
    }
}

/// What became of one file. The two versions differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileChange {
    Added(Version),
    Deleted(Version),
    /// The paths may differ as well: then it was renamed, and this many per cent of it are the same.
    Changed {
        old: Version,
        new: Version,
        similarity: u8,
    },
}

impl FileChange {
    /// Whether `git apply` and `patch` can make this change: of content that is no text, only the name and the mode.
    pub fn has_text(&self) -> bool {
        match self {
            Self::Added(version) | Self::Deleted(version) => version.is_text(),
            Self::Changed { old, new, .. } => old.content == new.content || old.is_text() && new.is_text(),
        }
    }

    /// Makes its paths, which are in `directory`, relative to that.
    pub fn take_below(&mut self, directory: &[u8]) {
        let take = |version: &mut Version| {
            let below = version.path.strip_prefix(directory).unwrap_or(&version.path);
            version.path = below.strip_prefix(b"/").unwrap_or(below).to_vec();
        };
        match self {
            Self::Added(version) | Self::Deleted(version) => take(version),
            Self::Changed { old, new, .. } => {
                take(old);
                take(new);
            }
        }
    }

    /// How much of the file there is now, or was, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Added(version) | Self::Deleted(version) | Self::Changed { new: version, .. } => version.content.len(),
        }
    }

    /// The path that it is listed by.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Added(version) | Self::Deleted(version) | Self::Changed { new: version, .. } => &version.path,
        }
    }
}

/// The text of a patch with these changes, in this order.
pub(super) fn patch(changes: &[FileChange]) -> Vec<u8> {
    let mut text = Vec::new();
    for change in changes {
        match change {
            FileChange::Added(new) => add(&mut text, new),
            FileChange::Deleted(old) => delete(&mut text, old),
            // A file that became a link: git takes it for another one.
            FileChange::Changed { old, new, .. } if old.mode.is_link() != new.mode.is_link() => {
                delete(&mut text, old);
                add(&mut text, new);
            }
            FileChange::Changed { old, new, similarity } => modify(&mut text, old, new, *similarity),
        }
    }
    text
}

/// Appends a line of text; what is written to a vector is written.
macro_rules! line {
    ($text:expr, $($argument:tt)*) => {{
        let _ = writeln!($text, $($argument)*);
    }};
}

fn add(text: &mut Vec<u8>, new: &Version) {
    head(text, &new.path, &new.path);
    line!(text, "new file mode {}", new.mode.digits());
    line!(text, "index {}..{}", NO_BLOB, blob_id(&new.content));
    hunks(text, None, Some(new));
}

fn delete(text: &mut Vec<u8>, old: &Version) {
    head(text, &old.path, &old.path);
    line!(text, "deleted file mode {}", old.mode.digits());
    line!(text, "index {}..{}", blob_id(&old.content), NO_BLOB);
    hunks(text, Some(old), None);
}

fn modify(text: &mut Vec<u8>, old: &Version, new: &Version, similarity: u8) {
    head(text, &old.path, &new.path);
    if old.mode != new.mode {
        line!(text, "old mode {}", old.mode.digits());
        line!(text, "new mode {}", new.mode.digits());
    }
    if old.path != new.path {
        line!(text, "similarity index {similarity}%");
        line!(text, "rename from {}", quoted("", &old.path));
        line!(text, "rename to {}", quoted("", &new.path));
    }
    if old.content != new.content {
        // Without the mode nobody would know a changed link from a file.
        let mode = if old.mode == new.mode { format!(" {}", new.mode.digits()) } else { String::new() };
        line!(text, "index {}..{}{mode}", blob_id(&old.content), blob_id(&new.content));
        hunks(text, Some(old), Some(new));
    }
}

fn head(text: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    line!(text, "diff --git {} {}", quoted("a/", old), quoted("b/", new));
}

fn hunks(text: &mut Vec<u8>, old: Option<&Version>, new: Option<&Version>) {
    let before = old.map_or(&[][..], |version| &version.content);
    let after = new.map_or(&[][..], |version| &version.content);
    if before == after {
        return;
    }
    let name = |prefix, version: Option<&Version>| {
        version.map_or_else(|| "/dev/null".into(), |version| quoted(prefix, &version.path))
    };
    line!(text, "--- {}", name("a/", old));
    line!(text, "+++ {}", name("b/", new));
    let (old_lines, new_lines) = (lines_of(before), lines_of(after));
    let deadline = Instant::now() + PATIENCE;
    let changes = capture_diff_slices_deadline(Algorithm::Myers, &old_lines, &new_lines, Some(deadline));
    for group in group_diff_ops(changes, CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let old_range = first.old_range().start..last.old_range().end;
        let new_range = first.new_range().start..last.new_range().end;
        line!(text, "@@ -{} +{} @@", position(&old_range), position(&new_range));
        for change in group {
            let signs: (&[u8], &[u8]) = if change.tag() == DiffTag::Equal { (b" ", b"") } else { (b"-", b"+") };
            put_lines(text, signs.0, &old_lines, change.old_range());
            put_lines(text, signs.1, &new_lines, change.new_range());
        }
    }
}

/// The lines of a file, each with its end. What is between two line feeds is a line, whatever it holds.
pub(super) fn lines_of(content: &[u8]) -> Vec<&[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Writes some of the lines, if they are to be written at all, with the sign in front.
fn put_lines(text: &mut Vec<u8>, sign: &[u8], lines: &[&[u8]], range: Range<usize>) {
    for line in lines.get(range).unwrap_or_default().iter().filter(|_| !sign.is_empty()) {
        text.extend_from_slice(sign);
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

/// Where lines are, as a hunk's head has it: the first one's number, and how many there are if not one. Where there are none, the
/// number of the line before them.
fn position(range: &Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        length => format!("{},{length}", range.start + 1),
    }
}

/// How git names content that is not there.
const NO_BLOB: &str = "0000000000000000000000000000000000000000";

/// How git names content.
fn blob_id(content: &[u8]) -> String {
    let digest = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path as git writes it: in quotes, with C's escapes, where it holds anything but plain characters. A space is none: `patch` would
/// take it for the end of the name.
fn quoted(prefix: &str, path: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let escaped = |byte: &u8| match *byte {
        b'"' => "\\\"".into(),
        b'\\' => "\\\\".into(),
        0x07 => "\\a".into(),
        0x08 => "\\b".into(),
        b'\t' => "\\t".into(),
        b'\n' => "\\n".into(),
        0x0b => "\\v".into(),
        0x0c => "\\f".into(),
        b'\r' => "\\r".into(),
        byte @ b' '..=b'~' => char::from(byte).to_string(),
        byte => format!("\\{byte:03o}"),
    };
    let text: String = path.iter().map(escaped).collect();
    if path.iter().all(is_plain) { format!("{prefix}{text}") } else { format!("\"{prefix}{text}\"") }
}

/// How much two contents have in common, in per cent of the larger one, as git reckons it for renames: bytes in lines that are in both.
pub(super) fn similarity(old: &[u8], new: &[u8]) -> u8 {
    let larger = old.len().max(new.len());
    if larger == 0 {
        return 100;
    }
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    for line in lines_of(old) {
        *known.entry(line).or_default() += 1;
    }
    let mut common = 0;
    for line in lines_of(new) {
        if let Some(count) = known.get_mut(line).filter(|count| **count > 0) {
            *count -= 1;
            common += line.len();
        }
    }
    // What is not quite the same is not a hundred per cent.
    let percent = (common * 100 / larger) as u8;
    if old == new { 100 } else { percent.min(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(path: &str, mode: FileMode, content: &str) -> Version {
        Version { path: path.into(), mode, content: content.into() }
    }

    fn plain(content: &str) -> Version {
        version("file", FileMode::Plain, content)
    }

    fn text_of(change: FileChange) -> String {
        String::from_utf8(patch(&[change])).unwrap()
    }

    fn changed(old: Version, new: Version) -> String {
        let similarity = similarity(&old.content, &new.content);
        text_of(FileChange::Changed { old, new, similarity })
    }

    #[test]
    fn a_changed_line_has_three_lines_around_it_and_far_ones_are_apart() {
        let before: String = (1..=20).map(|number| format!("{number}\n")).collect();
        let after = before.replace("\n2\n", "\ntwo\n").replace("\n12\n", "\n12\nand a half\n");
        assert_eq!(
            changed(plain(&before), plain(&after)),
            "diff --git a/file b/file\n\
             index 0ff3bbb9c8bba2291654cd64067fa417ff54c508..BLOB 100644\n\
             --- a/file\n+++ b/file\n\
             @@ -1,5 +1,5 @@\n 1\n-2\n+two\n 3\n 4\n 5\n\
             @@ -10,6 +10,7 @@\n 10\n 11\n 12\n+and a half\n 13\n 14\n 15\n"
                .replace("BLOB", &blob_id(after.as_bytes()))
        );
    }

    #[test]
    fn content_has_the_name_that_git_gives_it() {
        assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(blob_id(b"test content\n"), "d670460b4b4aece5915caf5c68d12f560a9fe3e4");
    }

    #[test]
    fn an_added_file_is_all_new_lines_and_a_deleted_one_all_old() {
        let added = text_of(FileChange::Added(version("new", FileMode::Executable, "a\nb\n")));
        assert!(added.starts_with("diff --git a/new b/new\nnew file mode 100755\nindex 0000"), "{added}");
        assert!(added.ends_with("--- /dev/null\n+++ b/new\n@@ -0,0 +1,2 @@\n+a\n+b\n"), "{added}");
        let deleted = text_of(FileChange::Deleted(plain("a\n")));
        assert!(deleted.contains("deleted file mode 100644\n"), "{deleted}");
        assert!(deleted.ends_with("--- a/file\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"), "{deleted}");
        let empty = text_of(FileChange::Added(plain("")));
        assert!(empty.ends_with("..e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n"), "{empty}");
    }

    #[test]
    fn a_missing_newline_at_the_end_is_said_of_the_line_that_lacks_it() {
        let text = changed(plain("a\nb"), plain("a\nb\n"));
        assert!(text.ends_with("@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"), "{text}");
        let text = changed(plain("a\nb\n"), plain("a\nb"));
        assert!(text.ends_with("-b\n+b\n\\ No newline at end of file\n"), "{text}");
    }

    #[test]
    fn modes_and_renames_are_in_the_head() {
        let executable = Version { mode: FileMode::Executable, ..plain("a\n") };
        assert_eq!(changed(plain("a\n"), executable), "diff --git a/file b/file\nold mode 100644\nnew mode 100755\n");
        assert_eq!(
            changed(plain("a\n"), version("other name", FileMode::Plain, "a\n")),
            "diff --git a/file \"b/other name\"\nsimilarity index 100%\nrename from file\nrename to \"other name\"\n"
        );
    }

    #[test]
    fn a_link_is_a_line_without_an_end() {
        let link = |target| version("link", FileMode::Link, target);
        let text = changed(link("a"), link("b"));
        let end = "-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n";
        assert!(text.contains(" 120000\n--- a/link\n") && text.ends_with(end), "{text}");
        let text = changed(plain("a\n"), version("file", FileMode::Link, "a"));
        assert!(text.contains("deleted file mode 100644\n") && text.contains("new file mode 120000\n"), "{text}");
    }

    #[test]
    fn names_are_quoted_as_c_does() {
        assert_eq!(quoted("a/", b"src/plain-1.0.c"), "a/src/plain-1.0.c");
        assert_eq!(quoted("a/", b"two words"), r#""a/two words""#);
        assert_eq!(quoted("", "é\"\\\n\t\x07\x7f".as_bytes()), r#""\303\251\"\\\n\t\a\177""#);
    }

    #[test]
    fn bytes_that_are_no_utf8_stay_as_they_are() {
        let version = |content: &[u8]| Version { content: content.into(), ..plain("") };
        let text =
            patch(&[FileChange::Changed { old: version(b"caf\xe9\n"), new: version(b"caf\xe9s\n"), similarity: 0 }]);
        assert!(text.ends_with(b"-caf\xe9\n+caf\xe9s\n"));
    }

    #[test]
    fn similarity_is_what_lines_have_in_common() {
        assert_eq!(similarity(b"", b""), 100);
        assert_eq!(similarity(b"a\nb\n", b"a\nb\n"), 100);
        assert_eq!(similarity(b"a\nb\n", b"b\na\n"), 99);
        assert_eq!(similarity(b"a\na\n", b"a\nb\n"), 50);
        assert_eq!(similarity(b"a\n", b"b\n"), 0);
    }
}
