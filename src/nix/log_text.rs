//! What a line of a build log looks like on a terminal.

/// Where a terminal's tabs are.
const TAB: usize = 8;

/// A line of a log, without its newline, as a terminal shows it in the end: what a carriage return, a backspace or an erasure of the line
/// took back is gone, and so are colours and titles. Bytes that are no UTF-8 become U+FFFD.
///
/// Other control characters stay: whoever prints the line has to escape them.
pub(crate) fn as_shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut characters = text.chars().peekable();
    let mut shown: Vec<char> = Vec::new();
    let mut column = 0_usize;
    let put = |shown: &mut Vec<char>, column: &mut usize, character| {
        shown.resize(shown.len().max(*column + 1), ' ');
        shown[*column] = character;
        *column += 1;
    };
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\u{8}' => column = column.saturating_sub(1),
            '\t' => {
                let stop = (column / TAB + 1) * TAB;
                while column < stop {
                    put(&mut shown, &mut column, ' ');
                }
            }
            '\u{1b}' => match characters.next() {
                Some('[') => {
                    if let Some((parameters, 'K')) = control_sequence(&mut characters) {
                        erase(&parameters, &mut shown, column);
                    }
                }
                Some(']') => skip_string(&mut characters),
                // A sequence of two characters, such as a reset.
                Some(_) | None => {}
            },
            other => put(&mut shown, &mut column, other),
        }
    }
    let text: String = shown.into_iter().collect();
    text.trim_end_matches(' ').to_owned()
}

/// The parameters of a control sequence (`ESC [ … LETTER`) and the letter that ends it.
fn control_sequence(characters: &mut impl Iterator<Item = char>) -> Option<(String, char)> {
    let mut parameters = String::new();
    for character in characters {
        match character {
            '@'..='~' => return Some((parameters, character)),
            ' '..='?' => parameters.push(character),
            _ => return None,
        }
    }
    None
}

/// The text after `ESC ]`, such as a title, up to BEL or `ESC \`.
fn skip_string(characters: &mut impl Iterator<Item = char>) {
    let mut last = '\0';
    for character in characters {
        if character == '\u{7}' || (last == '\u{1b}' && character == '\\') {
            return;
        }
        last = character;
    }
}

/// `ESC [ K` erases to the end of the line, `1K` up to the cursor, `2K` all of it.
fn erase(parameters: &str, shown: &mut Vec<char>, column: usize) {
    match parameters {
        "" | "0" => shown.truncate(column),
        "1" => shown.iter_mut().take(column + 1).for_each(|character| *character = ' '),
        "2" => shown.clear(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::as_shown;

    #[test]
    fn a_progress_bar_shows_its_end() {
        assert_eq!(as_shown(b" 10%\r 50%\r100%"), "100%");
        assert_eq!(as_shown(b"downloading\rdone"), "doneloading");
        assert_eq!(as_shown(b"downloading\r\x1b[Kdone"), "done");
        assert_eq!(as_shown(b"downloading\x1b[2K\rdone"), "done");
        assert_eq!(as_shown(b"abc\x08\x08X"), "aXc");
        assert_eq!(as_shown(b"a line of DOS\r"), "a line of DOS");
    }

    #[test]
    fn colours_and_titles_are_left_out_and_tabs_are_spaces() {
        assert_eq!(as_shown(b"\x1b[1;31merror:\x1b[0m no\x1b[m"), "error: no");
        assert_eq!(as_shown(b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b"), "ab");
        assert_eq!(as_shown(b"a\tb  "), "a       b");
        assert_eq!(as_shown(b"\x1b"), "");
        assert_eq!(as_shown(b"x\x1b[3"), "x");
        assert_eq!(as_shown(b"\x1b[1Kx"), "x");
    }

    #[test]
    fn bytes_that_are_no_text_are_marked() {
        assert_eq!(as_shown(b"caf\xe9 \xc3\xa9"), "caf\u{fffd} é");
    }
}
