//! `edit_file`: exact and unique replacement in a file that was read, and as it was read.

use super::files::{Files, MAX_FILE, Said};
use super::read::numbered;

/// Lines shown around a change or a near miss.
const AROUND: usize = 3;
/// Most line numbers that an error lists.
const LISTED: usize = 10;
/// Most lines that are compared in search of a near miss.
const COMPARED: usize = 5000;
/// Characters of a line that are compared.
const PREFIX: usize = 200;

impl Files {
    /// Replaces `old` by `new`.
    pub fn edit_file(&self, path: &str, old: &str, new: &str, replace_all: bool) -> Said {
        let resolved = self.resolve_for_writing(path)?;
        // A link is edited where it leads.
        let resolved = self.resolve(&resolved.to_string_lossy())?;
        self.resolve_for_writing(&resolved.to_string_lossy())?;
        let content = self.content(&resolved)?;
        self.check_seen(&resolved, &content)?;
        let shown = resolved.display();
        let Ok(text) = String::from_utf8(content) else {
            return Err(format!("{shown} is not UTF-8 text: change it with run_command."));
        };
        // read_file shows no carriage returns, so they cannot be in what the model copied from it.
        let windows = text.contains("\r\n") && !old.contains('\r');
        let as_file = |part: &str| match windows {
            true => part.replace("\r\n", "\n").replace('\n', "\r\n"),
            false => part.to_owned(),
        };
        let (old, new) = (as_file(old), as_file(new));
        let Some(first) = text.find(&old) else {
            return Err(format!("old_string does not stand in {shown}. {}", near_miss(&text, &old)));
        };
        let places = text.matches(&old).count();
        if places > 1 && !replace_all {
            let lines: Vec<String> =
                text.match_indices(&old).take(LISTED).map(|(at, _)| line_of(&text, at).to_string()).collect();
            return Err(format!(
                "old_string stands {} times in {shown}, at lines {}{}: add lines around it to make it unique, \
                 or set replace_all.",
                places,
                lines.join(", "),
                if places > LISTED { ", ..." } else { "" }
            ));
        }
        // Before it is made: a short text in place of every letter can be very long.
        let grown = (text.len() - places * old.len()).saturating_add(places.saturating_mul(new.len()));
        if grown as u64 > MAX_FILE {
            return Err(format!("{shown} would have {grown} bytes, more than {MAX_FILE}."));
        }
        let edited = text.replace(&old, &new);
        self.store(&resolved, edited.as_bytes(), true)?;
        let changed = line_of(&edited, first);
        let (from, to) = (changed.saturating_sub(AROUND), changed + new.lines().count().max(1) - 1 + AROUND);
        let lines: Vec<&str> = edited.lines().collect();
        let (excerpt, _) = numbered(&lines, from.max(1), to.min(lines.len()), self.cap / 4);
        let times = if places > 1 { format!(", {} times", places) } else { String::new() };
        Ok(format!("Edited {shown}{times}. It now reads:\n{excerpt}"))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where text like `old` stands, for the model to see what it got wrong.
fn near_miss(text: &str, old: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let wanted: Vec<&str> = old.lines().map(str::trim).collect();
    let is_alike = |window: &[&str]| window.iter().zip(&wanted).all(|(line, wanted)| line.trim() == *wanted);
    if !wanted.is_empty()
        && let Some(at) = lines.windows(wanted.len()).position(is_alike)
    {
        let (excerpt, _) = numbered(&lines, at + 1, at + wanted.len(), 4000);
        return format!("It differs in white space from lines {} on, which are:\n{excerpt}", at + 1);
    }
    let Some(key) = wanted.iter().copied().max_by_key(|line| line.len()) else { return String::new() };
    let key: String = key.chars().take(PREFIX).collect();
    let like = |line: &&str| {
        let line: String = line.trim().chars().take(PREFIX).collect();
        strsim::normalized_levenshtein(&line, &key)
    };
    // Lines of very different length cannot be near.
    let comparable = |line: &&str| {
        let (length, wanted) = (line.trim().len(), key.len());
        length * 2 >= wanted && length <= wanted * 2 + PREFIX
    };
    let candidates = lines.iter().enumerate().take(COMPARED).filter(|(_, line)| comparable(line));
    let scored = candidates.map(|(at, line)| (at, like(line)));
    match scored.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((at, likeness)) if likeness > 0.5 => {
            let (from, to) = ((at + 1).saturating_sub(AROUND).max(1), (at + 1 + AROUND).min(lines.len()));
            let (excerpt, _) = numbered(&lines, from, to, 4000);
            format!("The nearest lines are:\n{excerpt}")
        }
        Some(_) | None => "Nothing in the file is like it: read it again.".into(),
    }
}
