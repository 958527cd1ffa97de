//! What was changed in a file that the build had changed before, as a change of the file that the source has.

use std::ops::Range;
use std::time::Instant;

use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices_deadline};

use super::format::{FileChange, PATIENCE, Version, lines_of, similarity};
use super::origin::Origin;

/// Makes of a change of files as the build had them one of the files as the source has them, so that a patch of it fits the source.
/// Nothing where that leaves nothing; the change itself as an error where it is one of what the build has written.
pub(super) fn rebased(change: FileChange, origin: &Origin) -> Result<Option<FileChange>, FileChange> {
    let in_source = |version: &Version| {
        let content = origin.content(&version.path)?;
        Some(Version { path: version.path.clone(), mode: content.mode, content: content.bytes })
    };
    Ok(match change {
        FileChange::Added(new) => Some(FileChange::Added(new)),
        FileChange::Deleted(old) => Some(FileChange::Deleted(in_source(&old).unwrap_or(old))),
        FileChange::Changed { old, new, similarity } => match in_source(&old) {
            Some(source) if source != old => {
                let Some(new) = carried_over(&source, &old, &new) else {
                    return Err(FileChange::Changed { old, new, similarity });
                };
                (source != new).then(|| with_similarity(source, new))
            }
            _ => Some(FileChange::Changed { old, new, similarity }),
        },
    })
}

fn with_similarity(old: Version, new: Version) -> FileChange {
    let similarity = similarity(&old.content, &new.content);
    FileChange::Changed { old, new, similarity }
}

/// `source` with what was changed between `old` and `new`; nothing where it does not have the lines that were changed, as they were,
/// with the same line before and after them.
fn carried_over(source: &Version, old: &Version, new: &Version) -> Option<Version> {
    let mode = if old.mode == new.mode { source.mode } else { new.mode };
    let with = |content| Version { path: new.path.clone(), mode, content };
    if old.content == new.content {
        return Some(with(source.content.clone()));
    }
    if source.content == old.content {
        return Some(with(new.content.clone()));
    }
    let is_text = |version: &Version| version.is_text() && !version.mode.is_link();
    if ![source, old, new].into_iter().all(is_text) {
        return None;
    }
    let (source, old, new) = (lines_of(&source.content), lines_of(&old.content), lines_of(&new.content));
    let deadline = Some(Instant::now() + PATIENCE);
    let of_build = capture_diff_slices_deadline(Algorithm::Myers, &old, &source, deadline);
    let of_session = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline);
    let (mut content, mut copied) = (Vec::new(), 0);
    for change in of_session.iter().filter(|change| change.tag() != DiffTag::Equal) {
        let (start, end) = place_in_source(change, &of_build, old.len())?;
        content.extend_from_slice(source.get(copied..start)?);
        content.extend_from_slice(new.get(change.new_range())?);
        copied = end;
    }
    content.extend_from_slice(source.get(copied..)?);
    Some(with(content.concat()))
}

/// The lines of the source that `change` changes.
fn place_in_source(change: &DiffOp, of_build: &[DiffOp], length: usize) -> Option<(usize, usize)> {
    let range = change.old_range();
    let holds = |same: &&DiffOp| {
        let same = same.old_range();
        (same.start < range.start || same.start == 0) && (range.end < same.end || same.end == length)
    };
    let same = of_build.iter().filter(|op| op.tag() == DiffTag::Equal).find(holds)?;
    // At an end of the file no line tells whether what the build has put there stands before it or after it.
    let is_of_build = |at: usize, place: fn(Range<usize>) -> usize| {
        of_build.iter().any(|op| op.tag() != DiffTag::Equal && place(op.old_range()) == at)
    };
    if range.start == 0 && is_of_build(0, |range| range.start)
        || range.end == length && is_of_build(length, |range| range.end)
    {
        return None;
    }
    let shift = |line: usize| same.new_range().start + (line - same.old_range().start);
    Some((shift(range.start), shift(range.end)))
}

#[cfg(test)]
mod tests {
    use super::super::format::FileMode;
    use super::*;

    fn version(content: &str) -> Version {
        Version { path: b"file".into(), mode: FileMode::Plain, content: content.into() }
    }

    fn carried(source: &str, old: &str, new: &str) -> Option<String> {
        let carried = carried_over(&version(source), &version(old), &version(new))?;
        Some(String::from_utf8(carried.content).unwrap())
    }

    #[test]
    fn a_change_of_other_lines_is_one_of_the_source_too() {
        assert_eq!(carried("@A@\nb\nc\n", "a\nb\nc\n", "a\nb\nC\n").unwrap(), "@A@\nb\nC\n");
        assert_eq!(carried("a\nb\n@C@\n@D@\n", "a\nb\nc\n", "x\na\nb\nc\n").unwrap(), "x\na\nb\n@C@\n@D@\n");
        // The build has put a line before it.
        assert_eq!(carried("b\nc\nd\n", "a\nb\nc\nd\n", "a\nb\nd\n").unwrap(), "b\nd\n");
        assert_eq!(carried("@A@\nb\n", "a\nb\n", "a\nb\nc").unwrap(), "@A@\nb\nc");
        assert_eq!(
            carried("@A@\nb\nc\nd\n@E@\n", "a\nb\nc\nd\ne\n", "a\nb\nx\nd\ne\n").unwrap(),
            "@A@\nb\nx\nd\n@E@\n"
        );
    }

    #[test]
    fn a_change_of_the_same_lines_or_of_their_neighbours_is_none_of_the_source() {
        assert_eq!(carried("@A@\nb\n", "a\nb\n", "x\nb\n"), None);
        assert_eq!(carried("@A@\nb\nc\n", "a\nb\nc\n", "a\nB\nc\n"), None);
        assert_eq!(carried("a\nb\n", "a\nb\nc\n", "a\nb\nc\nd\n"), None);
        assert_eq!(carried("b\n", "a\nb\n", "x\na\nb\n"), None);
        assert_eq!(carried("a\nb\nc\nd\n", "a\nb\n", "a\nb\ne\n"), None);
        assert_eq!(carried("a\nb\n", "x\na\nb\n", "y\nx\na\nb\n"), None);
    }

    #[test]
    fn a_mode_and_what_is_no_text_go_as_a_whole() {
        let executable = Version { mode: FileMode::Executable, ..version("a\n") };
        let carried = carried_over(&version("@A@\n"), &version("a\n"), &executable).unwrap();
        assert_eq!((carried.mode, carried.content.as_slice()), (FileMode::Executable, &b"@A@\n"[..]));
        assert!(carried_over(&version("a\0b\nc\nd\n"), &version("x\0b\nc\nd\n"), &version("x\0b\nc\ne\n")).is_none());
    }
}
