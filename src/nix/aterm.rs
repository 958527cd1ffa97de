//! Reads the ATerm text of a derivation. Strings are bytes; nothing in them has to be UTF-8.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::derivation::{Output, WantedOutputs};

/// How deep derivations may lie that are outputs of derivations. Nix sets no limit; a chain of three is already exotic.
const DEEPEST_DYNAMIC_DERIVATION: usize = 64;

/// What stands in the text of a derivation, in its order.
pub(super) struct Text {
    pub outputs: BTreeMap<Vec<u8>, Output>,
    pub input_derivations: BTreeMap<PathBuf, WantedOutputs>,
    pub input_sources: Vec<PathBuf>,
    pub system: Vec<u8>,
    pub builder: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads `Derive(…)`, or `DrvWithVersion("xp-dyn-drv",…)`, to its end.
///
/// # Errors
/// Text of another form; the message says where and what was expected, and goes after the file's name.
pub(super) fn parse(text: &[u8]) -> Result<Text> {
    let mut scanner = Scanner { text, position: 0 };
    let is_versioned = !scanner.take(b"Derive(");
    if is_versioned {
        if !scanner.take(b"DrvWithVersion(") {
            bail!("does not begin with «Derive(» or «DrvWithVersion(»: it is no derivation");
        }
        let version = scanner.string()?;
        if version != b"xp-dyn-drv" {
            bail!("is a derivation of the version «{}», which is not known here", version.escape_ascii());
        }
        scanner.expect(b",")?;
    }
    let mut outputs = BTreeMap::new();
    scanner.list(|scanner| {
        let (name, output) = scanner.output()?;
        outputs.entry(name).or_insert(output);
        Ok(())
    })?;
    scanner.expect(b",")?;
    let mut input_derivations = BTreeMap::new();
    scanner.list(|scanner| {
        scanner.expect(b"(")?;
        let path = scanner.path()?;
        scanner.expect(b",")?;
        let wanted = scanner.wanted_outputs(if is_versioned { DEEPEST_DYNAMIC_DERIVATION } else { 0 })?;
        scanner.expect(b")")?;
        input_derivations.insert(path, wanted);
        Ok(())
    })?;
    scanner.expect(b",")?;
    let input_sources = scanner.list_of(Scanner::path)?;
    scanner.expect(b",")?;
    let system = scanner.string()?;
    scanner.expect(b",")?;
    let builder = scanner.string()?;
    scanner.expect(b",")?;
    let arguments = scanner.list_of(Scanner::string)?;
    scanner.expect(b",")?;
    let mut environment = BTreeMap::new();
    scanner.list(|scanner| {
        scanner.expect(b"(")?;
        let name = scanner.string()?;
        scanner.expect(b",")?;
        let value = scanner.string()?;
        scanner.expect(b")")?;
        environment.insert(name, value);
        Ok(())
    })?;
    scanner.expect(b")")?;
    if scanner.position < text.len() {
        bail!("goes on after the end of the derivation, at byte {}", scanner.position);
    }
    Ok(Text { outputs, input_derivations, input_sources, system, builder, arguments, environment })
}

/// Walks over the text; every method leaves it behind what it has read.
struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn take(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.position += literal.len();
        }
        found
    }

    fn expect(&mut self, literal: &[u8]) -> Result<()> {
        if !self.take(literal) {
            let at_end = if self.rest().is_empty() { ", where it ends" } else { "" };
            bail!(
                "is no whole derivation: «{}» was expected at byte {}{at_end}",
                literal.escape_ascii(),
                self.position
            );
        }
        Ok(())
    }

    /// `"…"`: `\n`, `\r` and `\t` are what they are in C, and before any other byte a backslash quotes it.
    fn string(&mut self) -> Result<Vec<u8>> {
        let start = self.position;
        self.expect(b"\"")?;
        let mut value = Vec::new();
        loop {
            let rest = self.rest();
            let Some(length) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
                break;
            };
            value.extend_from_slice(&rest[..length]);
            self.position += length + 1;
            if rest[length] == b'"' {
                return Ok(value);
            }
            value.push(match rest.get(length + 1) {
                None => break,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(byte) => *byte,
            });
            self.position += 1;
        }
        bail!("is no whole derivation: it ends in the string that begins at byte {start}");
    }

    fn path(&mut self) -> Result<PathBuf> {
        let start = self.position;
        let path = self.string()?;
        if !path.starts_with(b"/") {
            bail!("is no derivation of Nix: «{}», at byte {start}, is no absolute path", path.escape_ascii());
        }
        Ok(OsString::from_vec(path).into())
    }

    /// `[…]`, with commas between what `element` reads.
    fn list(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b"[")?;
        if self.take(b"]") {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.take(b",") {
                return self.expect(b"]");
            }
        }
    }

    fn list_of<T>(&mut self, element: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut values = Vec::new();
        self.list(|scanner| {
            values.push(element(scanner)?);
            Ok(())
        })?;
        Ok(values)
    }

    /// `("NAME","PATH","HASH-ALGORITHM","HASH")`.
    fn output(&mut self) -> Result<(Vec<u8>, Output)> {
        self.expect(b"(")?;
        let name = self.string()?;
        self.expect(b",")?;
        let path = if self.take(b"\"\"") { None } else { Some(self.path()?) };
        self.expect(b",")?;
        let hash_algorithm = self.string()?;
        self.expect(b",")?;
        let hash = self.string()?;
        self.expect(b")")?;
        Ok((name, Output { path, hash_algorithm, hash }))
    }

    /// `["OUTPUT",…]`, or, in the versioned form, `(["OUTPUT",…],[("OUTPUT",WANTED),…])`, at most `depth` of them in each other.
    fn wanted_outputs(&mut self, depth: usize) -> Result<WantedOutputs> {
        let is_dynamic = depth > 0 && self.take(b"(");
        let names = self.list_of(Self::string)?.into_iter().collect();
        let mut of_outputs = BTreeMap::new();
        if is_dynamic {
            self.expect(b",")?;
            self.list(|scanner| {
                scanner.expect(b"(")?;
                let name = scanner.string()?;
                scanner.expect(b",")?;
                if depth == 1 && scanner.rest().starts_with(b"(") {
                    bail!("names outputs of outputs more than {DEEPEST_DYNAMIC_DERIVATION} times in each other");
                }
                of_outputs.insert(name, scanner.wanted_outputs(depth - 1)?);
                scanner.expect(b")")
            })?;
            self.expect(b")")?;
        }
        Ok(WantedOutputs { names, of_outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"Derive([("out","/nix/store/o","","")],[("/nix/store/i.drv",["dev","out"])],["/nix/store/s"],"x86_64-linux","/b",["-c"],[("A","1")])"#;

    fn message(text: &[u8]) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn every_part_is_found() {
        let text = parse(PLAIN.as_bytes()).unwrap();
        assert_eq!(text.outputs[&b"out"[..]].path.as_deref(), Some("/nix/store/o".as_ref()));
        let wanted = &text.input_derivations[&PathBuf::from("/nix/store/i.drv")];
        assert!(wanted.names.iter().eq([&b"dev"[..], b"out"]) && wanted.of_outputs.is_empty());
        assert_eq!(text.input_sources, ["/nix/store/s"].map(PathBuf::from));
        assert_eq!(text.system, b"x86_64-linux");
        assert_eq!(text.builder, b"/b");
        assert_eq!(text.arguments, [b"-c"]);
        assert_eq!(text.environment[&b"A"[..]], b"1");
    }

    #[test]
    fn strings_are_bytes_with_the_escapes_of_nix() {
        let text = PLAIN.replace("-c", r#"\"\\\n\r\t\$\é"#).into_bytes();
        assert_eq!(parse(&text).unwrap().arguments, ["\"\\\n\r\t$é".as_bytes()]);
        let mut text = PLAIN.as_bytes().to_vec();
        let c = PLAIN.find("-c").unwrap() + 1;
        text[c] = 0xff;
        assert_eq!(parse(&text).unwrap().arguments, [b"-\xff"]);
    }

    #[test]
    fn outputs_of_outputs_are_read_in_the_versioned_form_only() {
        let dynamic = r#"[("/nix/store/i.drv",(["out"],[("out",["dev"]),("x",(["y"],[("z",["w"])]))]))]"#;
        let plain = PLAIN.replace(r#"[("/nix/store/i.drv",["dev","out"])]"#, dynamic);
        let place = format!("«[» was expected at byte {}", plain.find(r#"(["out"]"#).unwrap());
        assert!(message(plain.as_bytes()).contains(&place));
        let versioned = plain.replace("Derive(", r#"DrvWithVersion("xp-dyn-drv","#);
        let text = parse(versioned.as_bytes()).unwrap();
        let wanted = &text.input_derivations[&PathBuf::from("/nix/store/i.drv")];
        assert!(wanted.names.contains(&b"out"[..]));
        assert!(wanted.of_outputs[&b"out"[..]].names.contains(&b"dev"[..]));
        assert!(wanted.of_outputs[&b"x"[..]].of_outputs[&b"z"[..]].names.contains(&b"w"[..]));
        let other = versioned.replace("xp-dyn-drv", "2");
        assert!(message(other.as_bytes()).contains("version «2»"));
    }

    #[test]
    fn what_is_there_twice_counts_as_for_nix() {
        let text = PLAIN
            .replace(r#"("A","1")"#, r#"("A","1"),("A","2")"#)
            .replace(r#"[("out""#, r#"[("out","/nix/store/first","",""),("out""#);
        let text = parse(text.as_bytes()).unwrap();
        assert_eq!(text.environment[&b"A"[..]], b"2");
        assert_eq!(text.outputs[&b"out"[..]].path.as_deref(), Some("/nix/store/first".as_ref()));
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| {
            let open = r#"([],[("o","#.repeat(depth);
            let close = ")])".repeat(depth);
            let dynamic = format!(r#"[("/nix/store/i.drv",{open}["x"]{close})]"#);
            PLAIN
                .replace(r#"[("/nix/store/i.drv",["dev","out"])]"#, &dynamic)
                .replace("Derive(", r#"DrvWithVersion("xp-dyn-drv","#)
        };
        parse(nested(DEEPEST_DYNAMIC_DERIVATION).as_bytes()).unwrap();
        assert!(message(nested(DEEPEST_DYNAMIC_DERIVATION + 1).as_bytes()).contains("more than 64 times"));
        assert!(message(nested(1_000_000).as_bytes()).contains("more than 64 times"));
    }

    #[test]
    fn what_is_no_derivation_is_refused_in_words() {
        assert!(message(b"").contains("no derivation"));
        assert!(message(b"\x7fELF").contains("no derivation"));
        let relative = PLAIN.replace("/nix/store/s", "s");
        let place = format!("«s», at byte {}, is no absolute path", relative.find(r#""s""#).unwrap());
        assert!(message(relative.as_bytes()).contains(&place));
        assert!(message(format!("{PLAIN}x").as_bytes()).contains("goes on after the end"));
    }

    #[test]
    fn every_cut_is_refused() {
        for end in 0..PLAIN.len() {
            assert!(parse(&PLAIN.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
