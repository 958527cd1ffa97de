//! Reads `env-vars`, the dump of exported variables that stdenv leaves in the build directory at the start of each phase.
//!
//! The dump is what bash's `export` prints: a line `declare -x NAME="VALUE"` each, the value quoted for bash, perhaps over
//! several lines. It comes from a build, so it is untrusted: it is read here, and evaluated only by the shell inside the
//! sandbox.

use anyhow::{Result, bail};

/// The exported variables of a build, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvVars {
    variables: Vec<Variable>,
}

/// A variable and its value, as bytes: the kernel asks for no encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    name: Vec<u8>,
    /// `None` where it is an array, which no environment can hold.
    value: Option<Vec<u8>>,
}

impl EnvVars {
    /// Reads the text of an `env-vars` file.
    ///
    /// Lines that declare nothing are passed over, as the shell would do with a comment.
    ///
    /// # Errors
    /// Text that is empty, holds a NUL byte, or ends inside a quoted value; the message goes after the file's name.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.is_empty() {
            bail!("is empty: the build ended before stdenv wrote it");
        }
        if text.contains(&0) {
            bail!("holds NUL bytes: it is not the text that stdenv writes");
        }
        let mut scanner = Scanner { text, position: 0 };
        let mut variables = Vec::new();
        while !scanner.at_end() {
            if let Some(variable) = scanner.declaration()? {
                variables.push(variable);
            }
            scanner.skip_line();
        }
        Ok(Self { variables })
    }

    /// The value of the variable `name`; of several declarations the last one counts, as in the shell.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let is_it = |variable: &&Variable| variable.name == name.as_bytes();
        self.variables.iter().rev().find(is_it)?.value.as_deref()
    }
}

/// Walks over the text; every method leaves it behind what it has read.
struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    fn at_end(&self) -> bool {
        self.position >= self.text.len()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.position += 1;
        Some(byte)
    }

    fn take(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.position += literal.len();
        }
        found
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let end = rest.iter().position(|byte| !belongs(*byte));
        let taken = end.map_or(rest, |end| &rest[..end]);
        self.position += taken.len();
        taken
    }

    fn skip_line(&mut self) {
        self.take_while(|byte| byte != b'\n');
        self.next();
    }

    /// `declare -FLAGS NAME`, `declare -FLAGS NAME=VALUE`, or, as bash prints it in POSIX mode, `export NAME=VALUE`.
    fn declaration(&mut self) -> Result<Option<Variable>> {
        if self.take(b"declare -") {
            let flags = self.take_while(|byte| byte.is_ascii_alphabetic());
            if !flags.contains(&b'x') || !self.take(b" ") {
                return Ok(None);
            }
        } else if !self.take(b"export ") {
            return Ok(None);
        }
        let name = self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() {
            return Ok(None);
        }
        let value = if !self.take(b"=") {
            // One that has a value keeps it, and one without has none.
            return Ok(None);
        } else if self.peek() == Some(b'(') {
            self.skip_array(name)?;
            None
        } else {
            Some(self.word(name)?)
        };
        let name = name.to_vec();
        Ok(Some(Variable { name, value }))
    }

    /// A shell word up to white space: double-quoted, `$'…'`, single-quoted and bare parts in any sequence.
    fn word(&mut self, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            if self.take(b"$'") {
                self.ansi_c_quoted(name, &mut value)?;
                continue;
            }
            match self.peek() {
                None | Some(b'\n' | b' ' | b'\t' | b')') => return Ok(value),
                Some(b'"') => self.double_quoted(name, &mut value)?,
                Some(b'\'') => self.single_quoted(name, &mut value)?,
                Some(b'\\') => {
                    self.next();
                    value.extend(self.next().filter(|byte| *byte != b'\n'));
                }
                Some(byte) => {
                    self.next();
                    value.push(byte);
                }
            }
        }
    }

    /// `"…"`: a backslash quotes only the four bytes that mean something there, and removes a newline.
    fn double_quoted(&mut self, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        self.next();
        loop {
            match self.next() {
                None => return unfinished(name),
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    None => return unfinished(name),
                    Some(b'\n') => {}
                    Some(byte @ (b'"' | b'\\' | b'$' | b'`')) => value.push(byte),
                    Some(byte) => value.extend([b'\\', byte]),
                },
                Some(byte) => value.push(byte),
            }
        }
    }

    fn single_quoted(&mut self, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        self.next();
        value.extend(self.take_while(|byte| byte != b'\''));
        match self.next() {
            None => unfinished(name),
            Some(_) => Ok(()),
        }
    }

    /// `$'…'`, whose opening is read already: the escapes of C that bash knows. As in bash, where it ends is found first, and a NUL
    /// byte that an escape stands for ends what counts of it.
    fn ansi_c_quoted(&mut self, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        let start = self.position;
        loop {
            match self.next() {
                Some(b'\'') => break,
                Some(b'\\') if self.next().is_some() => {}
                Some(byte) if byte != b'\\' => {}
                _ => return unfinished(name),
            }
        }
        let mut inside = Scanner { text: &self.text[start..self.position - 1], position: 0 };
        let begin = value.len();
        while let Some(byte) = inside.next() {
            match (byte, inside.peek()) {
                (b'\\', Some(escaped)) => {
                    inside.next();
                    inside.escape(escaped, value);
                }
                _ => value.push(byte),
            }
        }
        if let Some(end) = value[begin..].iter().position(|byte| *byte == 0) {
            value.truncate(begin + end);
        }
        Ok(())
    }

    /// What stands for `\` and `byte` in `$'…'`.
    fn escape(&mut self, byte: u8, value: &mut Vec<u8>) {
        match byte {
            b'a' => value.push(0x07),
            b'b' => value.push(0x08),
            b'e' | b'E' => value.push(0x1b),
            b'f' => value.push(0x0c),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'v' => value.push(0x0b),
            b'\\' | b'\'' | b'"' | b'?' => value.push(byte),
            b'0'..=b'7' => {
                self.position -= 1;
                // Three octal digits reach past a byte; bash keeps the lower eight bits.
                value.extend(self.number(8, 3).map(|number| number as u8));
            }
            b'x' if self.take(b"{") => {
                let digits = self.take_while(|byte| byte.is_ascii_hexdigit());
                let of_digit = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0) as u8;
                value.push(digits.iter().fold(0_u8, |number, digit| (number << 4) | of_digit(digit)));
                self.take(b"}");
            }
            b'x' => match self.number(16, 2) {
                Some(number) => value.push(number as u8),
                None => value.extend(b"\\x"),
            },
            b'u' | b'U' => {
                let digits = if byte == b'u' { 4 } else { 8 };
                match self.number(16, digits) {
                    Some(number) => push_utf8(number, value),
                    None => value.extend([b'\\', byte]),
                }
            }
            b'c' => match self.next() {
                None => value.extend(b"\\c"),
                Some(b'?') => value.push(0x7f),
                Some(control) => {
                    if control == b'\\' {
                        self.take(b"\\");
                    }
                    value.push(control.to_ascii_uppercase() & 0x1f);
                }
            },
            other => value.extend([b'\\', other]),
        }
    }

    /// A number of at most `most` digits in this base; `None` where there is no digit.
    fn number(&mut self, base: u32, most: usize) -> Option<u32> {
        let rest = self.rest();
        let is_digit = |byte: &&u8| char::from(**byte).is_digit(base);
        let digits = rest.iter().take(most).take_while(is_digit).count();
        let text = str::from_utf8(rest.get(..digits)?).ok()?;
        self.position += digits;
        u32::from_str_radix(text, base).ok()
    }

    /// `([KEY]=VALUE …)`: an array's value, which no process inherits.
    fn skip_array(&mut self, name: &[u8]) -> Result<()> {
        self.next();
        loop {
            match self.peek() {
                None => return unfinished(name),
                Some(b')') => {
                    self.next();
                    return Ok(());
                }
                Some(b' ' | b'\n' | b'\t') => {
                    self.next();
                }
                Some(_) => {
                    self.word(name)?;
                }
            }
        }
    }
}

/// As UTF-8 was before it was limited to characters: bash writes whatever number there is.
fn push_utf8(number: u32, value: &mut Vec<u8>) {
    let (first, more) = match number {
        0..0x80 => return value.push(number as u8),
        0x80..0x800 => (0xc0, 1),
        0x800..0x1_0000 => (0xe0, 2),
        0x1_0000..0x20_0000 => (0xf0, 3),
        0x20_0000..0x400_0000 => (0xf8, 4),
        0x400_0000..0x8000_0000 => (0xfc, 5),
        _ => return,
    };
    value.push(first | (number >> (6 * more)) as u8);
    value.extend((0..more).rev().map(|place| 0x80 | (number >> (6 * place)) as u8 & 0x3f));
}

fn unfinished<T>(name: &[u8]) -> Result<T> {
    let name = String::from_utf8_lossy(name);
    bail!("ends inside the value of {name}: the build was stopped while stdenv wrote it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, name: &str) -> Option<Vec<u8>> {
        EnvVars::parse(text.as_bytes()).unwrap().get(name).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_value_is_taken_from_its_double_quotes() {
        let text = "declare -x A=\"1\"\ndeclare -x SHELL=\"/nix/store/x-bash/bin/bash\"\n";
        assert_eq!(value(text, "SHELL").unwrap(), b"/nix/store/x-bash/bin/bash");
    }

    #[test]
    fn a_line_inside_another_value_declares_nothing() {
        let text = "declare -x NOTE=\"one\ndeclare -x SHELL=\\\"/evil\\\"\ntwo\"\n";
        assert_eq!(value(text, "SHELL"), None);
        assert_eq!(value(text, "NOTE").unwrap(), b"one\ndeclare -x SHELL=\"/evil\"\ntwo");
    }

    #[test]
    fn a_command_substitution_stays_text() {
        let text = r#"declare -x A="\$(touch /pwned) \`id\` \\ \" \n""#;
        assert_eq!(value(text, "A").unwrap(), br#"$(touch /pwned) `id` \ " \n"#);
    }

    #[test]
    fn control_characters_and_bytes_come_as_escapes() {
        let text = r"declare -x A=$'a\tb\n\001\303\274\x41\u20ac\'\cA\q'";
        assert_eq!(value(text, "A").unwrap(), b"a\tb\n\x01\xc3\xbcA\xe2\x82\xac'\x01\\q");
    }

    /// Found by comparing with bash.
    #[test]
    fn odd_escapes_are_bashs() {
        let read = |text: &str| value(&format!("declare -x A={text}\n"), "A").unwrap();
        assert_eq!(read(r"$'a\0b'c"), b"ac");
        assert_eq!(read(r"$'\xcb\U000\464'"), b"\xcb");
        assert_eq!(read(r"$'\c?\ca\cA'"), b"\x7f\x01\x01");
        assert_eq!(read(r"$'\c'"), b"\\c");
        assert_eq!(read(r"$'\c\\x\c\'y'"), b"\x1cx\x1c'y");
        assert_eq!(read(r"$'\uDDA8\U10ffff\U00110000'"), b"\xed\xb6\xa8\xf4\x8f\xbf\xbf\xf4\x90\x80\x80");
        assert_eq!(read(r"$'\x{41}\x{141}\x{42'"), b"AAB");
    }

    #[test]
    fn a_variable_may_be_exported_without_a_value() {
        let text = "declare -x A\ndeclare -x B=\"\"\n";
        assert_eq!(value(text, "A"), None);
        assert_eq!(value(text, "B").unwrap(), b"");
    }

    #[test]
    fn flags_beside_x_and_the_form_of_posix_mode_are_known() {
        let text = "declare -rx A=\"1\"\ndeclare -ax B=([0]=\"x )\" [1]=$'y\\n')\nexport C=\"3\"\ndeclare -r D=\"4\"\n";
        assert_eq!(value(text, "A").unwrap(), b"1");
        assert_eq!(value(text, "B"), None);
        assert_eq!(value(text, "C").unwrap(), b"3");
        assert_eq!(value(text, "D"), None);
    }

    #[test]
    fn the_last_declaration_counts() {
        assert_eq!(value("declare -x A=\"1\"\ndeclare -x A=\"2\"\n", "A").unwrap(), b"2");
        assert_eq!(value("declare -x A=\"1\"\nexport A\n", "A").unwrap(), b"1");
    }

    #[test]
    fn what_is_no_dump_is_refused_in_words() {
        let message = |text: &[u8]| EnvVars::parse(text).unwrap_err().to_string();
        assert!(message(b"").contains("empty"));
        assert!(message(b"\x7fELF\0\0").contains("NUL"));
        assert!(message(b"declare -x HOME=\"/no").contains("inside the value of HOME"));
    }

    #[test]
    fn no_cut_of_a_dump_makes_it_panic() {
        let text =
            b"declare -x A=\"\\\"x\"\ndeclare -x B=$'\\x4\\u12\\07\\c'\ndeclare -ax C=([0]=\"y\")\nexport D=e\\\n";
        for end in 0..text.len() {
            let _ = EnvVars::parse(&text[..end]);
        }
    }
}
