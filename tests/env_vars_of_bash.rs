//! Reads dumps of variables as bash itself does: bash is asked which names and which values it takes from each.
//!
//! `NIX_BUILD_SHELL_CASES` says how many are made up; `make fuzz` takes 10,000.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use nix_build_shell::env_vars::EnvVars;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The names that are declared. Bash sets none of them.
const NAMES: [&str; 5] = ["A", "B", "LONG_NAME_1", "_x", "out"];
/// How many cases one bash reads.
const BATCH: usize = 250;

/// Has every file read by a shell of its own, with nothing but builtins, and prints its name, then each of the names that is exported
/// and has a value, and the value.
const ORACLE: &str = r#"
for file in case-*; do
    printf '%s\0' "$file"
    (
        source "./$file" > /dev/null 2>&1 < /dev/null || exit
        printf 'accepted\0'
        for name in A B LONG_NAME_1 _x out; do
            [[ ${!name+x} && $(declare -p "$name") == 'declare -'*x*' '"$name"=* ]] && printf '%s\0%s\0' "$name" "${!name}"
        done
    )
    printf 'end\0'
done
"#;

fn cases() -> usize {
    env::var("NIX_BUILD_SHELL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// Bytes of which few are letters: what quotes, escapes, separates, and what is no ASCII.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(b"ab01 \n\t\"'\\$`=()[]{};&|<>~#!*?x".to_vec()),
        1 => 1..=255u8,
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(byte(), 0..12)
}

/// A part of a word that expands nothing.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let double_quoted = bytes().prop_map(|text| {
        let mut quoted = vec![b'"'];
        for byte in text {
            if b"\"\\$`".contains(&byte) {
                quoted.push(b'\\');
            }
            quoted.push(byte);
        }
        [quoted, vec![b'"']].concat()
    });
    // A backslash before what needs none, or before the end of a line, is bash's to interpret.
    let escapes_in_double_quotes = prop::collection::vec(prop::sample::select(b"abn\n'\"\\$` ".to_vec()), 0..6)
        .prop_map(|text| {
            [&b"\""[..], &text.iter().flat_map(|byte| [b'\\', *byte]).collect::<Vec<_>>(), b"\""].concat()
        });
    let single_quoted = bytes().prop_map(|text| {
        [&b"'"[..], &text.into_iter().filter(|byte| *byte != b'\'').collect::<Vec<_>>(), b"'"].concat()
    });
    let escape = prop_oneof![
        prop::sample::select(b"abeEfnrtv\\'\"?qz \n".to_vec()).prop_map(|byte| vec![b'\\', byte]),
        "[0-7]{1,4}".prop_map(|digits| [b"\\", digits.as_bytes()].concat()),
        "x[{]?[0-9a-fA-F]{0,3}[}]?".prop_map(|digits| [b"\\", digits.as_bytes()].concat()),
        "u[0-9a-fA-F]{0,5}".prop_map(|digits| [b"\\", digits.as_bytes()].concat()),
        "U[0-7]?[0-9a-fA-F]{0,7}".prop_map(|digits| [b"\\", digits.as_bytes()].concat()),
        "c([a-zA-Z?@]|\\\\\\\\|\\\\')".prop_map(|letter| [b"\\", letter.as_bytes()].concat()),
        byte().prop_filter("what ends it", |byte| !b"'\\".contains(byte)).prop_map(|byte| vec![byte]),
    ];
    let ansi_c_quoted =
        prop::collection::vec(escape, 0..8).prop_map(|parts| [&b"$'"[..], &parts.concat(), b"'"].concat());
    let bare = "[a-z0-9/_.:,+@%^-]{1,6}".prop_map(String::into_bytes);
    let escaped = byte().prop_filter("it joins lines", |byte| *byte != b'\n').prop_map(|byte| vec![b'\\', byte]);
    prop_oneof![4 => double_quoted, 1 => escapes_in_double_quotes, 2 => single_quoted, 4 => ansi_c_quoted, 2 => bare, 1 => escaped]
}

fn declaration() -> impl Strategy<Value = Vec<u8>> {
    let head = prop::sample::select(vec!["declare -x ", "declare -x ", "declare -tx ", "declare -xi ", "export "]);
    let head = head.prop_filter("bash computes with it", |head| !head.contains('i'));
    let word = prop::option::of(prop::collection::vec(part(), 0..4).prop_map(|parts| parts.concat()));
    (head, prop::sample::select(NAMES.to_vec()), word).prop_map(|(head, name, word)| {
        let value = word.map(|word| [b"=", word.as_slice()].concat()).unwrap_or_default();
        [head.as_bytes(), name.as_bytes(), &value, b"\n"].concat()
    })
}

fn dump() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(declaration(), 1..6).prop_map(|declarations| declarations.concat())
}

type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

/// What bash takes from each of these dumps; nothing for one that it does not accept.
fn by_bash(dumps: &[Vec<u8>]) -> Vec<Option<Variables>> {
    let directory = tempfile::tempdir().unwrap();
    for (number, dump) in dumps.iter().enumerate() {
        fs::write(directory.path().join(format!("case-{number:05}")), dump).unwrap();
    }
    // Without a PATH nothing is run, whatever a dump turns out to say.
    let output = Command::new("/bin/bash")
        .args(["--norc", "--noprofile", "-c", ORACLE])
        .env_clear()
        .envs([("PATH", "/nonexistent"), ("LC_ALL", "C.UTF-8")])
        .current_dir(directory.path())
        .output()
        .expect("bash is needed, to be compared with");
    let mut fields = output.stdout.split(|byte| *byte == 0);
    let mut answers = Vec::new();
    while let Some(file) = fields.next().filter(|file| !file.is_empty()) {
        assert_eq!(file, format!("case-{:05}", answers.len()).as_bytes());
        let mut answer = None;
        loop {
            match fields.next().expect("an end") {
                b"end" => break,
                b"accepted" => answer = Some(Variables::new()),
                name => {
                    let value = fields.next().expect("a value");
                    answer.as_mut().expect("accepted before").insert(name.to_vec(), value.to_vec());
                }
            }
        }
        answers.push(answer);
    }
    assert_eq!(answers.len(), dumps.len(), "{}", String::from_utf8_lossy(&output.stderr));
    answers
}

/// What we take from a dump.
fn by_us(dump: &[u8]) -> Option<Variables> {
    let variables = EnvVars::parse(dump).ok()?;
    let present = NAMES.iter().filter_map(|name| Some((name.as_bytes().to_vec(), variables.get(name)?.to_vec())));
    Some(present.collect())
}

#[test]
fn what_bash_accepts_is_read_as_bash_reads_it() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut accepted = 0;
    let mut left = cases();
    while left > 0 {
        let count = left.min(BATCH);
        left -= count;
        let dumps: Vec<_> = (0..count).map(|_| dump().new_tree(&mut runner).unwrap().current()).collect();
        for (dump, by_bash) in dumps.iter().zip(by_bash(&dumps)) {
            let Some(by_bash) = by_bash else { continue };
            accepted += 1;
            let shown = dump.escape_ascii().to_string();
            assert_eq!(by_us(dump).as_ref().map(readable), Some(readable(&by_bash)), "{shown}");
        }
    }
    assert!(accepted * 10 > cases() * 9, "bash takes only {accepted} of {}", cases());
}

/// Values that bash is given, and dumps by itself.
#[test]
fn what_bash_dumps_is_read_as_it_was() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let value = prop::collection::vec(byte(), 0..40);
    for _ in 0..cases() / 20 {
        let values = NAMES.map(|_| value.new_tree(&mut runner).unwrap().current());
        let pairs: Vec<_> = NAMES.iter().zip(&values).map(|(name, value)| (*name, os(value))).collect();
        for locale in ["C", "C.UTF-8"] {
            let output = Command::new("/bin/bash")
                .args(["--norc", "--noprofile", "-c", "export"])
                .env_clear()
                .envs(pairs.iter().copied())
                .env("LC_ALL", locale)
                .output()
                .unwrap();
            let expected: Variables = NAMES.iter().map(|name| name.as_bytes().to_vec()).zip(values.clone()).collect();
            assert_eq!(by_us(&output.stdout).as_ref().map(readable), Some(readable(&expected)));
        }
    }
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn readable(variables: &Variables) -> Vec<String> {
    variables.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii())).collect()
}
