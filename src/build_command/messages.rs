//! What Nix says of builds that fail, found in what it writes for people.
//!
//! Nix has these sentences for it, each on a line of its own, whatever progress bar is drawn around it:
//!
//! - `note: keeping build directory '/tmp/nix-build-hello-2.12.drv-0'`, with `"…"` since 2.32 or so, `‘…’` before 1.12;
//! - `builder for '/nix/store/…-hello-2.12.drv' failed with exit code 2`, or `failed due to signal 9 (Killed)`; since 2.30
//!   `Cannot build '/nix/store/…-hello-2.12.drv'.` and below it `Reason: builder failed with exit code 2.`
//!
//! With `--log-format internal-json` they are the `msg` of a JSON object.

use std::path::PathBuf;

use serde_json::Value;

use crate::nix::as_shown;

/// More than a line of Nix's. What a builder writes may have no end.
const LONGEST_LINE: usize = 64 << 10;

const KEEPING: &str = "note: keeping build directory ";
const BUILDER_FOR: &str = "builder for ";
const CANNOT_BUILD: &str = "Cannot build ";
const REASON: &str = "Reason: ";
const BUILDER_FAILED: &str = "builder failed ";
/// Before a message in JSON.
const JSON: &str = "@nix ";

/// A builder that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The derivation, as Nix named it.
    pub derivation: PathBuf,
    /// Its exit status, or 128+n where the signal n ended it; nothing where Nix did not tell.
    pub status: Option<u8>,
}

/// Reads what a command writes.
#[derive(Debug, Default)]
pub(super) struct Messages {
    line: Vec<u8>,
    is_too_long: bool,
    kept: Vec<PathBuf>,
    failures: Vec<Failure>,
    /// Named in the line before.
    cannot_build: Option<PathBuf>,
}

impl Messages {
    /// Reads on.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        // A progress bar begins anew with a carriage return, and what Nix says in between does so too.
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            self.is_too_long |= self.line.len() + piece.len() > LONGEST_LINE;
            if !self.is_too_long {
                self.line.extend_from_slice(piece);
            }
            if matches!(piece.last(), Some(b'\n' | b'\r')) {
                self.end_line();
            }
        }
    }

    /// The directories that Nix keeps, and the builders that failed.
    pub(super) fn end(mut self) -> (Vec<PathBuf>, Vec<Failure>) {
        self.end_line();
        (self.kept, self.failures)
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_too_long) {
            return;
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        let line = as_shown(&line);
        match line.strip_prefix(JSON).map(serde_json::from_str::<Value>) {
            Some(Ok(message)) if message["action"] == "msg" => {
                let text = message["msg"].as_str().unwrap_or_default();
                text.lines().for_each(|line| self.understand(&as_shown(line.as_bytes())));
            }
            Some(_) => {}
            None => self.understand(&line),
        }
    }

    /// Understands a line without colours.
    fn understand(&mut self, line: &str) {
        let line = line.trim_start();
        let after_cannot_build = self.cannot_build.take();
        // What a builder writes stands behind a name of its own, or is taken for Nix's.
        if let Some((path, _)) = line.strip_prefix(KEEPING).and_then(quoted) {
            let path = PathBuf::from(path);
            if path.is_absolute() && !self.kept.contains(&path) {
                self.kept.push(path);
            }
        } else if let Some((derivation, rest)) = following(line, BUILDER_FOR).and_then(quoted) {
            if let Some(how) = rest.strip_prefix(" failed") {
                self.failed(derivation.into(), how);
            }
        } else if let Some((derivation, _)) = following(line, CANNOT_BUILD).and_then(quoted) {
            self.cannot_build = Some(derivation.into());
        } else if let (Some(derivation), Some(how)) =
            (after_cannot_build, line.strip_prefix(REASON).and_then(|reason| reason.strip_prefix(BUILDER_FAILED)))
        {
            self.failed(derivation, how);
        }
    }

    /// `how` is what follows «failed».
    fn failed(&mut self, derivation: PathBuf, how: &str) {
        let how = how.trim_start();
        let number = |start| how.strip_prefix(start).and_then(leading_number);
        let status = number("with exit code ").or_else(|| number("due to signal ")?.checked_add(128));
        // It is said again at the end, and for each that needs it.
        if !self.failures.iter().any(|known| known.derivation == derivation) {
            self.failures.push(Failure { derivation, status });
        }
    }
}

fn following<'a>(line: &'a str, words: &str) -> Option<&'a str> {
    line.split_once(words).map(|(_, rest)| rest)
}

/// The text in quotation marks that a line begins with, and what follows them. What C++ quotes has its own marks escaped.
fn quoted(line: &str) -> Option<(String, &str)> {
    let mut characters = line.char_indices();
    let (_, open) = characters.next()?;
    let close = match open {
        '\'' | '"' => open,
        '‘' | '`' => {
            if open == '‘' {
                '’'
            } else {
                '\''
            }
        }
        _ => return None,
    };
    let mut text = String::new();
    while let Some((at, character)) = characters.next() {
        if character == close {
            return Some((text, &line[at + character.len_utf8()..]));
        }
        if character == '\\' && open == '"' {
            text.push(characters.next()?.1);
        } else {
            text.push(character);
        }
    }
    None
}

fn leading_number(text: &str) -> Option<u8> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "/nix/store/va5rxqg6vhyxivzrnqcm3kkb3flap7jx-hello-2.12.drv";

    fn told(text: &str) -> (Vec<String>, Vec<(String, Option<u8>)>) {
        // However it comes in pieces.
        let all = [1, 7, 4096].map(|size| {
            let mut messages = Messages::default();
            text.as_bytes().chunks(size).for_each(|piece| messages.read(piece));
            let (kept, failures) = messages.end();
            let failures =
                failures.into_iter().map(|failure| (failure.derivation.display().to_string(), failure.status));
            (kept.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(), failures.collect::<Vec<_>>())
        });
        assert!(all[0] == all[1] && all[1] == all[2], "{all:?}");
        let [first, ..] = all;
        first
    }

    fn kept(text: &str) -> Vec<String> {
        told(text).0
    }

    fn failures(text: &str) -> Vec<(String, Option<u8>)> {
        told(text).1
    }

    #[test]
    fn every_version_s_note_is_understood() {
        for (text, path) in [
            ("note: keeping build directory '/tmp/nix-build-a.drv-0'\n", "/tmp/nix-build-a.drv-0"),
            ("note: keeping build directory '/tmp/nix-build-a.drv-0/build'\n", "/tmp/nix-build-a.drv-0/build"),
            (
                "note: keeping build directory \"/nix/var/nix/builds/nix-1-2/build\"\n",
                "/nix/var/nix/builds/nix-1-2/build",
            ),
            ("note: keeping build directory ‘/tmp/nix-build-a.drv-0’\n", "/tmp/nix-build-a.drv-0"),
            ("note: keeping build directory `/tmp/nix-build-a.drv-0'\n", "/tmp/nix-build-a.drv-0"),
            ("note: keeping build directory \"/tmp/a \\\"b\\\" \\\\c/nix-1-2\"\n", "/tmp/a \"b\" \\c/nix-1-2"),
            ("note: keeping build directory '/tmp/the end'", "/tmp/the end"),
        ] {
            assert_eq!(kept(text), [path], "{text}");
        }
    }

    #[test]
    fn a_progress_bar_and_colours_hide_nothing() {
        // As Nix 2.8 and 2.34 write to a terminal.
        let bar = "\r\x1b[0m\x1b[K\r[\x1b[34;1m1\x1b[0m/\x1b[32;1m0\x1b[0m/1 built] building \x1b[1mhello\x1b[0m (buildPhase): cc\x1b[0m\x1b[K\
                   \r\x1b[Knote: keeping build directory '/tmp/nix-build-hello.drv-3'\x1b[0m\n\r[\x1b[34;1m1\x1b[0m/0/1 built] building\x1b[0m";
        assert_eq!(kept(bar), ["/tmp/nix-build-hello.drv-3"]);
        let coloured = "\x1b[?25l\r\x1b[Knote: keeping build directory \x1b[35;1m\"/nix/var/nix/builds/nix-5-6/build\"\x1b[0m\x1b[0m\r\n";
        assert_eq!(kept(coloured), ["/nix/var/nix/builds/nix-5-6/build"]);
    }

    #[test]
    fn several_are_told_in_their_order_and_each_once() {
        let text = "note: keeping build directory '/tmp/b'\nnote: keeping build directory '/tmp/a'\n\
                    note: keeping build directory '/tmp/b'\n";
        assert_eq!(kept(text), ["/tmp/b", "/tmp/a"]);
    }

    #[test]
    fn what_a_builder_says_behind_its_name_or_within_a_line_is_not_nix_s() {
        for text in [
            "hello> note: keeping build directory '/tmp/a'\n",
            "       > note: keeping build directory '/tmp/a'\n",
            "he said: note: keeping build directory '/tmp/a'\n",
            "note: keeping build directory /tmp/a\n",
            "note: keeping build directory '/tmp/a\n'\n",
            "note: keeping build directory 'relative'\n",
        ] {
            assert!(kept(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn json_is_read_and_a_builder_s_line_in_it_is_none_of_nix_s() {
        let text = "@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"note: keeping build directory '/tmp/a'\"}\n\
                    @nix {\"action\":\"result\",\"fields\":[\"note: keeping build directory '/tmp/b'\"],\"id\":1,\"type\":101}\n\
                    @nix {damaged\n";
        assert_eq!(kept(text), ["/tmp/a"]);
        let text = format!(
            "@nix {{\"action\":\"msg\",\"level\":0,\"msg\":\"error: builder for '\\u001b[35;1m{HELLO}\\u001b[0m' failed with exit code 2;\\n  last\"}}\n"
        );
        assert_eq!(failures(&text), [(HELLO.to_owned(), Some(2))]);
    }

    #[test]
    fn the_builders_that_failed_are_told_with_their_statuses() {
        let one = |status| vec![(HELLO.to_owned(), status)];
        for (text, status) in [
            (format!("error: builder for '{HELLO}' failed with exit code 2\n"), Some(2)),
            (
                format!(
                    "\x1b[31;1merror:\x1b[0m builder for '\x1b[35;1m{HELLO}\x1b[0m' failed with exit code 13;\n       last 10\n"
                ),
                Some(13),
            ),
            (format!("builder for ‘{HELLO}’ failed with exit code 1\n"), Some(1)),
            (format!("error: builder for '{HELLO}' failed due to signal 9 (Killed)\n"), Some(137)),
            (format!("error: builder for '{HELLO}' failed to produce output path '/x'\n"), None),
            (
                format!(
                    "error: Cannot build '\x1b[35;1m{HELLO}\x1b[0m'.\n       Reason: \x1b[31;1mbuilder failed with exit code 3\x1b[0m.\n"
                ),
                Some(3),
            ),
            (
                format!(
                    "error: Cannot build '{HELLO}'.\nReason: builder failed due to signal 11 (Segmentation fault).\n"
                ),
                Some(139),
            ),
        ] {
            assert_eq!(failures(&text), one(status), "{text}");
            assert_eq!(failures(&text.repeat(2)), one(status), "said again: {text}");
        }
        for text in [
            format!("error: Cannot build '{HELLO}'.\n       Reason: 1 dependency failed.\n"),
            format!("error: Cannot build '{HELLO}'.\n something\n Reason: builder failed with exit code 1.\n"),
            format!("error: 1 dependencies of derivation '{HELLO}' failed to build\n"),
            format!("building '{HELLO}'...\n"),
        ] {
            assert!(failures(&text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_passed_over() {
        let text = format!(
            "{}note: keeping build directory '/tmp/a'\nnote: keeping build directory '/tmp/b'\n",
            "x".repeat(LONGEST_LINE)
        );
        assert_eq!(kept(&text), ["/tmp/b"]);
    }
}
