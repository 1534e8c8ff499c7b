//! Finds a model that goes in circles: the same call with the same result, with nothing new done
//! between.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use steadfast_core::chat::ToolCall;

/// What a repetition asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repetition {
    /// Nothing.
    None,
    /// The model is to be told, this once: so many times.
    Tell(u32),
    /// It was told, and goes on.
    Stuck,
}

/// How often each call with its result came since something new was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Repeats {
    counts: BTreeMap<[u8; 32], Times>,
    told: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    now: u32,
    /// Whether it ever came before.
    known: bool,
}

impl Repeats {
    /// One result more. `changes` says that the call can change things and succeeded: the first of
    /// its kind makes it sensible to repeat all others, as tests are after an edit.
    pub(super) fn see(&mut self, call: &ToolCall, output: &str, changes: bool, most: u32) -> Repetition {
        let mut digest = Sha256::new();
        for part in [call.name.as_str(), call.arguments.trim(), output] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let key = digest.finalize().into();
        let is_new = !self.counts.get(&key).is_some_and(|times| times.known);
        if changes && is_new {
            self.forgive();
        }
        let times = self.counts.entry(key).or_default();
        times.known = true;
        times.now += 1;
        if times.now < most {
            Repetition::None
        } else if self.told {
            Repetition::Stuck
        } else {
            self.told = true;
            Repetition::Tell(times.now)
        }
    }

    /// Counting begins again: something new was done, or old results are no longer seen.
    pub(super) fn forgive(&mut self) {
        for times in self.counts.values_mut() {
            times.now = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sees each (tool, arguments, changes) with the result `r`, at most 3 times.
    fn run(calls: &[(&str, bool)]) -> Vec<Repetition> {
        let mut repeats = Repeats::default();
        let see = |(name, changes): &(&str, bool)| {
            let call = ToolCall { id: String::new(), name: (*name).into(), arguments: "{}".into() };
            repeats.see(&call, "r", *changes, 3)
        };
        calls.iter().map(see).collect()
    }

    use Repetition::{None as Fine, Stuck, Tell};

    #[test]
    fn three_times_is_told_and_four_is_stuck() {
        let read = ("read", false);
        assert_eq!(run(&[read, read, read, read]), [Fine, Fine, Tell(3), Stuck]);
    }

    #[test]
    fn tests_after_each_new_edit_are_no_repetition() {
        let test = ("test", true);
        let calls = [test, ("edit 1", true), test, ("edit 2", true), test, ("edit 3", true), test];
        assert_eq!(run(&calls), [Fine; 7]);
    }

    #[test]
    fn edits_back_and_forth_are_found() {
        let (there, back) = (("there", true), ("back", true));
        let calls = [there, back, there, back, there, back, there];
        assert_eq!(run(&calls), [Fine, Fine, Fine, Fine, Fine, Tell(3), Stuck]);
    }

    #[test]
    fn another_result_is_another_thing() {
        let mut repeats = Repeats::default();
        let call = ToolCall { id: String::new(), name: "run".into(), arguments: "{}".into() };
        for n in 0..9 {
            assert_eq!(repeats.see(&call, &n.to_string(), false, 3), Fine);
        }
    }
}
