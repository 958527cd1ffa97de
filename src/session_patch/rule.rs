//! The rule that tells what a person did to the source from what the build makes.

use std::cell::RefCell;
use std::collections::HashMap;

use super::doubtful::directories_of;
use super::ignored::{Ignored, name_of, parent_of};
use super::origin::{FromSource, Origin};
use super::phase_times::PhaseTimes;
use super::products::{
    DIRECTORY_MARKS, backed_up, is_build_directory, is_of_the_builder, is_product, is_tool_directory, may_be_written,
    possible_sources,
};
use super::tree::{Entry, Tree};

/// Where a change belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Into the patch of the source.
    Source,
    /// Into the patch of all else: files that the build had made, or outside the source. They cannot be patched before it began.
    Elsewhere,
    /// Nowhere: it is older than the session, so it was only moved or unpacked here.
    Older,
    /// Nowhere, and not worth a word: what stdenv writes anew at each phase, and what is temporary.
    OfBuilder,
    /// Nowhere: a name that only tools give.
    Product,
    /// Into the patch of all else if it is as much as a person writes: it looks like a product, but somebody could have written it.
    ProbableProduct,
    /// Nowhere: there was a file with that content before, and so nobody has typed it.
    Copy,
}

/// What the rule looks at.
pub(super) struct Rule<'a> {
    pub origin: &'a Origin,
    pub ignored: Ignored<'a>,
    pub before: &'a Tree,
    pub after: &'a Tree,
    /// When phases ran in the session.
    pub times: &'a PhaseTimes,
    /// Whether the build has made a directory, as far as it was asked.
    pub made: RefCell<HashMap<Vec<u8>, bool>>,
}

impl Rule<'_> {
    /// Where the change of the file `path` belongs, which was `before` and is `after`.
    pub fn judge(&self, path: &[u8], before: Option<&Entry>, after: Option<&Entry>) -> Verdict {
        let top_name = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if is_of_the_builder(top_name) {
            return Verdict::OfBuilder;
        }
        if directories_of(path).any(|directory| is_tool_directory(name_of(directory))) {
            return Verdict::Product;
        }
        match (before, after) {
            (Some(before), after) => self.judge_old(path, before, after),
            (None, Some(after)) => self.judge_new(path, after),
            (None, None) => Verdict::Product,
        }
    }

    fn judge_old(&self, path: &[u8], before: &Entry, after: Option<&Entry>) -> Verdict {
        let place = self.place(path);
        match (self.origin.has(path, before), after) {
            (FromSource::Yes, _) => place,
            _ if is_product(name_of(path)) => Verdict::Product,
            // What the build has made and the session removed, nobody has typed.
            (_, None) => Verdict::ProbableProduct,
            _ if self.looks_made(path) || self.is_among_products(path) => Verdict::ProbableProduct,
            (FromSource::No, Some(_)) => Verdict::Elsewhere,
            (FromSource::Perhaps, Some(_)) => place,
        }
    }

    fn place(&self, path: &[u8]) -> Verdict {
        if self.origin.contains(path) { Verdict::Source } else { Verdict::Elsewhere }
    }

    fn judge_new(&self, path: &[u8], after: &Entry) -> Verdict {
        if self.origin.has_original(path) {
            let is_patched = self.times.contains(after.modified);
            return if is_patched { Verdict::ProbableProduct } else { self.place(path) };
        }
        let name = name_of(path);
        if is_product(name) && !may_be_written(name) || directories_of(path).any(|directory| self.is_marked(directory))
        {
            return Verdict::Product;
        }
        if after.modified < self.before.last_change() {
            return if is_product(name) { Verdict::Product } else { Verdict::Older };
        }
        let verdict = self.judge_written(path);
        if !self.times.contains(after.modified) {
            return verdict;
        }
        // A phase has written it, perhaps into what somebody had begun.
        if verdict == Verdict::ProbableProduct { Verdict::Product } else { Verdict::ProbableProduct }
    }

    /// The same of what is new and was written in the session.
    fn judge_written(&self, path: &[u8]) -> Verdict {
        if is_product(name_of(path)) {
            let is_backup = backed_up(name_of(path)).is_some_and(|name| {
                let path = below(parent_of(path), name);
                self.before.get(&path).or_else(|| self.after.get(&path)).is_some()
            });
            return if is_backup { Verdict::Product } else { Verdict::ProbableProduct };
        }
        let is_new_build =
            |directory: &[u8]| self.before.get(directory).is_none() && is_build_directory(name_of(directory));
        if directories_of(path).any(is_new_build) || self.is_among_products(path) || self.looks_made(path) {
            return Verdict::ProbableProduct;
        }
        if self.origin.contains(path) {
            return Verdict::Source;
        }
        // New trees outside of the source may be homes, caches and sources that were unpacked again.
        let directory = parent_of(path);
        if directory.is_empty() || self.before.get(directory).is_some() {
            Verdict::Elsewhere
        } else {
            Verdict::ProbableProduct
        }
    }

    /// Whether the build has made a directory that it is in.
    fn is_among_products(&self, path: &[u8]) -> bool {
        // That of the source itself is none that the build made, whatever it looks like.
        let in_source = |directory: &&[u8]| directory.len() > self.origin.root.len();
        directories_of(path).filter(in_source).any(|directory| self.is_made(directory))
    }

    fn is_made(&self, directory: &[u8]) -> bool {
        let known = self.made.borrow().get(directory).copied();
        known.unwrap_or_else(|| {
            let is_made = self.origin.is_made_by_build(directory, self.before);
            self.made.borrow_mut().insert(directory.into(), is_made);
            is_made
        })
    }

    /// Whether the source says that this file is none of it, or has what it would be made from.
    fn looks_made(&self, path: &[u8]) -> bool {
        let directory = parent_of(path);
        let is_there =
            |name: &Vec<u8>| self.before.get(&below(directory, name)).is_some_and(|entry| entry.is_content());
        possible_sources(name_of(path)).iter().any(is_there) || self.ignored.contains(self.origin.top(), path)
    }

    /// Whether a tool has marked a directory as its own.
    fn is_marked(&self, directory: &[u8]) -> bool {
        let has = |mark: &str| self.after.get(&[directory, b"/", mark.as_bytes()].concat()).is_some();
        // One that the source itself was unpacked to may be built in.
        directory.len() > self.origin.top().len() && DIRECTORY_MARKS.iter().any(|mark| has(mark))
    }
}

/// The path of `name` in a directory, which may be the build directory itself.
fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.into() } else { [directory, b"/", name].concat() }
}

/// A file or link that is not as it was, or may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    pub path: Vec<u8>,
    /// What it was.
    pub old: Option<Entry>,
    /// What it is.
    pub new: Option<Entry>,
}

/// Files and links that are not as they were: not the same file, or not at the same place, or touched since. Nothing is read.
pub(super) fn touched(before: &Tree, after: &Tree) -> Vec<Touched> {
    let content = |entry: Option<Entry>| entry.filter(Entry::is_content);
    let is_hidden = |path: &[u8]| {
        after
            .closed
            .iter()
            .any(|closed| path.strip_prefix(closed.as_slice()).is_some_and(|rest| rest.starts_with(b"/")))
    };
    let gone = before
        .iter()
        .filter(|(path, entry)| entry.is_content() && content(after.get(path)).is_none() && !is_hidden(path))
        .map(|(path, entry)| Touched { path: path.into(), old: Some(*entry), new: None });
    let there = after.iter().filter(|(_, entry)| entry.is_content()).filter_map(|(path, entry)| {
        let old = content(before.get(path));
        (old != Some(*entry)).then(|| Touched { path: path.into(), old, new: Some(*entry) })
    });
    gone.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;

    use super::*;

    /// When the build began, and when the session did: `Tree::example` says that nothing changed after the second 0.
    const BUILD: i64 = -1000;
    const BEFORE_BUILD: i64 = -2000;
    const IN_BUILD: i64 = -500;
    const IN_SESSION: i64 = 1;

    struct Setting {
        kept: tempfile::TempDir,
        origin: Origin,
        before: Tree,
        after: Tree,
        times: PhaseTimes,
    }

    impl Setting {
        fn judge(&self, path: &str) -> Verdict {
            let handle: OwnedFd = fs::File::open(self.kept.path()).unwrap().into();
            let rule = Rule {
                origin: &self.origin,
                ignored: Ignored::of(&handle),
                before: &self.before,
                after: &self.after,
                times: &self.times,
                made: RefCell::default(),
            };
            let path = path.as_bytes();
            rule.judge(path, self.before.get(path).as_ref(), self.after.get(path).as_ref())
        }
    }

    fn setting(before: &[(&str, i64)], after: &[(&str, i64)]) -> Setting {
        let kept = tempfile::tempdir().unwrap();
        fs::create_dir(kept.path().join("source")).unwrap();
        fs::write(kept.path().join("source/.gitignore"), "*.gen\n").unwrap();
        let origin = Origin::example(b"source", Some((BUILD, 0)));
        let top = [("source/", IN_BUILD), ("source/old.c", BEFORE_BUILD), ("source/Makefile.in", BEFORE_BUILD)];
        let with_top = |paths: &[(&str, i64)]| Tree::example(&[&top[..], paths].concat());
        Setting { kept, origin, before: with_top(before), after: with_top(after), times: PhaseTimes::default() }
    }

    #[test]
    fn what_came_with_the_source_is_of_it_whatever_its_name() {
        let setting = setting(
            &[("source/config.log", BEFORE_BUILD), ("source/a.gen", BEFORE_BUILD), ("other/x", BEFORE_BUILD)],
            &[("source/config.log", IN_SESSION), ("source/a.gen", IN_SESSION), ("other/x", IN_SESSION)],
        );
        assert_eq!(setting.judge("source/config.log"), Verdict::Source);
        assert_eq!(setting.judge("source/a.gen"), Verdict::Source);
        assert_eq!(setting.judge("other/x"), Verdict::Elsewhere);
    }

    #[test]
    fn what_was_written_in_the_build_is_of_the_source_if_it_may_have_been_patched() {
        let changed = [
            ("source/patched.c", IN_SESSION),
            ("source/Makefile", IN_SESSION),
            ("source/a.gen", IN_SESSION),
            ("source/x.log", IN_SESSION),
        ];
        let setting = setting(
            &[
                ("source/patched.c", IN_BUILD),
                ("source/Makefile", IN_BUILD),
                ("source/a.gen", IN_BUILD),
                ("source/x.log", IN_BUILD),
                ("source/gone.c", IN_BUILD),
            ],
            &changed,
        );
        assert_eq!(setting.judge("source/patched.c"), Verdict::Source);
        assert_eq!(setting.judge("source/Makefile"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("source/a.gen"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("source/x.log"), Verdict::Product);
        assert_eq!(setting.judge("source/gone.c"), Verdict::ProbableProduct);
    }

    #[test]
    fn what_is_not_in_the_sources_directory_cannot_be_patched_in_it() {
        let mut setting = setting(&[("source/made.c", IN_BUILD)], &[("source/made.c", IN_SESSION)]);
        let source = tempfile::tempdir().unwrap();
        setting.origin = setting.origin.with_directory(b"source", source.path());
        assert_eq!(setting.judge("source/made.c"), Verdict::Elsewhere);
        fs::write(source.path().join("made.c"), "").unwrap();
        assert_eq!(setting.judge("source/made.c"), Verdict::Source);
    }

    #[test]
    fn what_is_new_is_of_the_source_unless_it_looks_made() {
        let setting = setting(
            &[("source/objects/", IN_BUILD), ("source/objects/a.txt", IN_BUILD), ("source/marked/", IN_BUILD)],
            &[
                ("source/new.c", IN_SESSION),
                ("source/sub/new.c", IN_SESSION),
                ("source/moved.c", IN_BUILD),
                ("source/main.o", IN_SESSION),
                ("source/Makefile", IN_SESSION),
                ("source/b.gen", IN_SESSION),
                ("source/.git/config", IN_SESSION),
                ("source/build/made.c", IN_SESSION),
                ("source/objects/b.txt", IN_SESSION),
                ("source/marked/CACHEDIR.TAG", IN_SESSION),
                ("source/marked/b.txt", IN_SESSION),
                ("notes", IN_SESSION),
                ("home/x", IN_SESSION),
                ("env-vars", IN_SESSION),
                ("tmp.abc/x", IN_SESSION),
            ],
        );
        for (path, verdict) in [
            ("source/new.c", Verdict::Source),
            ("source/sub/new.c", Verdict::Source),
            ("source/moved.c", Verdict::Older),
            ("source/main.o", Verdict::Product),
            ("source/Makefile", Verdict::ProbableProduct),
            ("source/b.gen", Verdict::ProbableProduct),
            ("source/.git/config", Verdict::Product),
            ("source/build/made.c", Verdict::ProbableProduct),
            ("source/objects/b.txt", Verdict::ProbableProduct),
            ("source/marked/b.txt", Verdict::Product),
            ("notes", Verdict::Elsewhere),
            ("home/x", Verdict::ProbableProduct),
            ("env-vars", Verdict::OfBuilder),
            ("tmp.abc/x", Verdict::OfBuilder),
        ] {
            assert_eq!(setting.judge(path), verdict, "{path}");
        }
    }

    #[test]
    fn a_name_that_people_give_too_is_no_reason_to_lose_a_file() {
        let setting = setting(
            &[("source/saved.c", IN_BUILD)],
            &[
                ("source/notes.log", IN_SESSION),
                ("source/old.log", IN_BUILD),
                ("source/saved.c~", IN_SESSION),
                ("source/x~", IN_SESSION),
                ("notes.log", IN_SESSION),
            ],
        );
        assert_eq!(setting.judge("source/notes.log"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("source/old.log"), Verdict::Product);
        assert_eq!(setting.judge("source/saved.c~"), Verdict::Product);
        assert_eq!(setting.judge("source/x~"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("notes.log"), Verdict::ProbableProduct);
    }

    #[test]
    fn what_a_phase_has_written_in_the_session_is_no_text_of_a_persons() {
        let late = IN_SESSION + 100;
        let paths =
            [("source/a.c", late), ("source/b.log", late), ("tree/x", late), ("c", late), ("source/d.c", IN_SESSION)];
        let mut setting = setting(&[], &paths);
        setting.times = PhaseTimes::parse(format!("begin 7 {late}.000000\nend 7 {late}.500000\n").as_bytes());
        assert_eq!(setting.judge("source/a.c"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("source/b.log"), Verdict::Product);
        assert_eq!(setting.judge("tree/x"), Verdict::Product);
        assert_eq!(setting.judge("c"), Verdict::ProbableProduct);
        assert_eq!(setting.judge("source/d.c"), Verdict::Source);
    }

    #[test]
    fn only_what_is_not_the_same_file_was_touched() {
        let before = Tree::example(&[("a", 1), ("b", 1), ("c", 1), ("d/", 1), ("d/x", 1)]);
        let after = Tree::example(&[("a", 1), ("b", 2), ("c/", 1), ("d/", 2), ("d/x", 1), ("e", 1)]);
        let found = touched(&before, &after);
        let paths: Vec<_> = found
            .iter()
            .map(|touched| (touched.path.as_slice(), touched.old.is_some(), touched.new.is_some()))
            .collect();
        assert_eq!(paths, [(&b"c"[..], true, false), (b"b", true, true), (b"e", false, true)]);
    }

    #[test]
    fn below_a_directory_that_could_not_be_read_nothing_is_gone() {
        let before = Tree::example(&[("d/", 1), ("d/x", 1)]);
        let mut after = Tree::example(&[("d/", 1)]);
        after.closed.push(b"d".to_vec());
        assert_eq!(touched(&before, &after), []);
    }
}
