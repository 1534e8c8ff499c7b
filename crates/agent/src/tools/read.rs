//! `read_file`: numbered lines, capped; binary and huge files said so.

use super::files::{Files, Said};

/// Most characters of one line that are shown.
const LINE: usize = 2000;
/// Bytes at the beginning among which a NUL makes a file binary.
const SNIFF: usize = 8 << 10;

impl Files {
    /// Lines `start` to `end` of a file, both inclusive, from 1.
    pub fn read_file(&self, path: &str, start: Option<u32>, end: Option<u32>) -> Said {
        let resolved = self.resolve(path)?;
        let content = self.content(&resolved)?;
        let shown = resolved.display();
        if content[..content.len().min(SNIFF)].contains(&0) {
            return Err(format!("{shown} is a binary file of {} bytes: it cannot be shown.", content.len()));
        }
        self.saw(&resolved, &content);
        if content.is_empty() {
            return Ok(format!("{shown} is empty."));
        }
        let text = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = text.lines().collect();
        let first = start.map_or(1, |start| start as usize);
        let last = end.map_or(lines.len(), |end| end as usize).min(lines.len());
        if first > lines.len() {
            return Err(format!("{shown} has {} lines: start_line {first} is after its end.", lines.len()));
        }
        let (numbered, reached) = numbered(&lines, first, last, self.cap.saturating_sub(200));
        let total = lines.len();
        if reached < last {
            let next = reached + 1;
            Ok(format!("{numbered}[lines {first} to {reached} of {total}: go on with start_line {next}]"))
        } else if first > 1 || last < total {
            Ok(format!("{numbered}[lines {first} to {last} of {total}]"))
        } else {
            Ok(numbered)
        }
    }

    /// The text of a file, as far as `most` bytes, if it is there and is text.
    pub fn text(&self, path: &str, most: usize) -> Option<String> {
        let content = self.content(&self.resolve(path).ok()?).ok()?;
        let cut = &content[..content.len().min(most)];
        (!cut.contains(&0)).then(|| String::from_utf8_lossy(cut).into_owned())
    }

    /// A file that an earlier run of the job read or wrote: the model knows it as it is now.
    pub fn recall(&self, path: &str) {
        if let Ok(resolved) = self.resolve(path)
            && let Ok(content) = self.content(&resolved)
        {
            self.saw(&resolved, &content);
        }
    }
}

/// Lines with their numbers, as many as fit into `cap` bytes but at least one; and the last shown.
pub(super) fn numbered(lines: &[&str], first: usize, last: usize, cap: usize) -> (String, usize) {
    let mut output = String::new();
    let mut reached = first;
    for number in first..=last {
        let line = lines.get(number - 1).copied().unwrap_or_default();
        let shown = match line.char_indices().nth(LINE) {
            Some((cut, _)) => format!("{number:>6}\t{} [... line cut]\n", &line[..cut]),
            None => format!("{number:>6}\t{line}\n"),
        };
        if !output.is_empty() && output.len() + shown.len() > cap {
            break;
        }
        output.push_str(&shown);
        reached = number;
    }
    (output, reached)
}
