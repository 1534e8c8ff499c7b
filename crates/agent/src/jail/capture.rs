//! Output of a child as it is kept: the beginning and the end, and how much there was.

use std::collections::VecDeque;

/// Bytes of which the first and the last are kept, never more than the cap.
#[derive(Debug)]
pub(crate) struct Captured {
    head: Vec<u8>,
    head_cap: usize,
    tail: VecDeque<u8>,
    tail_cap: usize,
    total: u64,
}

impl Captured {
    /// Keeps a third at the beginning and two thirds at the end: what went wrong stands there.
    pub fn head_and_tail(cap: usize) -> Self {
        let head_cap = cap / 3;
        Captured { head: Vec::new(), head_cap, tail: VecDeque::new(), tail_cap: cap - head_cap, total: 0 }
    }

    /// Keeps all up to the cap; what is beyond it is only counted.
    pub fn whole(cap: usize) -> Self {
        Captured { head: Vec::new(), head_cap: cap, tail: VecDeque::new(), tail_cap: 0, total: 0 }
    }

    /// Takes more output.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_cap - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_cap)..];
        let over = (self.tail.len() + rest.len()).saturating_sub(self.tail_cap);
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    /// How many bytes there were.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All of it, or `None` if some of it was left out.
    pub fn complete(self) -> Option<Vec<u8>> {
        let Captured { mut head, tail, total, .. } = self;
        head.extend(tail);
        (head.len() as u64 == total).then_some(head)
    }

    /// As text, with a line where something was left out.
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let left_out = self.total - (self.head.len() + tail.len()) as u64;
        if left_out == 0 {
            let all = [self.head.as_slice(), &tail].concat();
            return String::from_utf8_lossy(&all).into_owned();
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&tail));
        format!("{}\n[... {left_out} bytes left out ...]\n{}", head.trim_end(), tail.trim_start())
    }
}

/// Cuts a text in the middle so that it has about `cap` bytes.
pub(crate) fn shorten(text: &str, cap: usize) -> String {
    if text.len() <= cap {
        return text.to_owned();
    }
    let mut captured = Captured::head_and_tail(cap);
    captured.push(text.as_bytes());
    captured.text()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keeps_the_first_and_the_last_however_it_arrives(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            cap in 0usize..100,
        ) {
            let all = pieces.concat();
            let mut captured = Captured::head_and_tail(cap);
            for piece in &pieces {
                captured.push(piece);
            }
            prop_assert_eq!(captured.total(), all.len() as u64);
            let tail: Vec<u8> = captured.tail.iter().copied().collect();
            prop_assert!(all.starts_with(&captured.head) && all.ends_with(&tail));
            prop_assert_eq!(captured.head.len() + tail.len(), all.len().min(cap));
            prop_assert_eq!(captured.complete(), (all.len() <= cap).then_some(all));
        }
    }

    #[test]
    fn says_how_much_was_left_out() {
        let text = shorten(&"x".repeat(1000), 90);
        assert!(text.contains("[... 910 bytes left out ...]"), "{text}");
        assert_eq!(shorten("short", 90), "short");
    }
}
