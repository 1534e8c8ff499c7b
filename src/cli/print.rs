//! Writing results: whole, safe for a terminal, and without a panic when the reader goes away.

use std::io::{ErrorKind, Write};

use crate::exit::Exit;

/// Writes a text to standard output. A reader that went away (`| head`) is no failure.
pub(super) fn all(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("steadfast: cannot write the result: {error}");
            Exit::Failed
        }
    }
}

/// One line of at most `most` characters, for a terminal: strangers wrote some of these texts, and
/// an escape sequence in them must not reach it.
pub(super) fn line(text: &str, most: usize) -> String {
    let text = text.trim();
    let flat = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let cut: String = flat.clone().take(most).collect();
    if flat.count() > most {
        format!("{}...", cut.chars().take(most.saturating_sub(3)).collect::<String>())
    } else {
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_line_is_one_line_without_escapes_and_has_an_end() {
        assert_eq!(line(" a\nb\u{1b}[31mc\r ", 80), "a b [31mc");
        assert_eq!(line("abcdefgh", 6), "abc...");
        assert_eq!(line("abcdef", 6), "abcdef");
    }
}
