//! A journal as it is found: each step, or why it cannot be read.

use serde_json::{Value, json};
use steadfast_core::journal::{JournalError, Step};

/// One place of a journal.
pub(super) struct Read {
    /// Its position, from 1, as people count.
    pub number: usize,
    /// The version byte, where there is one.
    pub version: Option<u8>,
    /// The step, or why it is not one.
    pub step: Result<Step, JournalError>,
}

/// Reads all steps; one that cannot be read hides none of the others.
pub(super) fn all(steps: &[Vec<u8>]) -> Vec<Read> {
    let read = |(at, bytes): (usize, &Vec<u8>)| Read {
        number: at + 1,
        version: bytes.first().copied(),
        step: Step::decode(bytes),
    };
    steps.iter().enumerate().map(read).collect()
}

impl Read {
    /// The step as it was written.
    pub fn whole(&self) -> serde_json::Result<Value> {
        match &self.step {
            Ok(step) => serde_json::to_value(step),
            Err(error) => Ok(json!({ "unreadable": error.to_string() })),
        }
    }

    /// The line of an export.
    pub fn as_json(&self) -> serde_json::Result<Value> {
        let mut line = json!({ "index": self.number, "version": self.version });
        match &self.step {
            Ok(step) => {
                let mut body = serde_json::to_value(step)?;
                if let Some(fields) = body.as_object_mut() {
                    // Told beside it.
                    fields.shift_remove("at");
                    fields.shift_remove("event");
                }
                line["kind"] = json!(step.event.kind());
                line["time"] = json!(step.at);
                line["body"] = body;
            }
            Err(error) => {
                line["kind"] = json!("unreadable");
                line["error"] = json!(error.to_string());
            }
        }
        Ok(line)
    }
}

/// What is wrong with a journal, in a sentence for a person; `None` if nothing is.
pub(super) fn complaint(reads: &[Read], written: u32) -> Option<String> {
    let bad: Vec<&Read> = reads.iter().filter(|read| read.step.is_err()).collect();
    if let Some(first) = bad.first()
        && let Err(error) = &first.step
    {
        let (bad, all) = (bad.len(), reads.len());
        return Some(format!(
            "{bad} of {all} steps cannot be read, the first is step {}: {error}",
            first.number
        ));
    }
    // A job that runs may have gone on between the two looks.
    let (found, written) = (reads.len(), written as usize);
    (found < written).then(|| format!("{found} steps are there where {written} were written"))
}

#[cfg(test)]
mod tests {
    use steadfast_core::journal::Event;
    use steadfast_core::time::Timestamp;

    use super::*;

    fn step() -> Vec<u8> {
        let event = Event::ToolStarted { call_id: "c1".into() };
        Step { at: Timestamp::from_millis(0), event }.encode()
    }

    #[test]
    fn what_can_be_read_is_told_and_the_rest_is_explained() {
        let mut cut = step();
        cut.truncate(20);
        let reads = all(&[step(), cut, vec![], vec![9, b'{'], b"garbage".to_vec(), step()]);
        let lines: Vec<Value> = reads.iter().map(|read| read.as_json().unwrap()).collect();
        for good in [0, 5] {
            assert_eq!(
                lines[good],
                json!({
                    "index": good + 1, "version": 1, "kind": "tool_started",
                    "time": "1970-01-01T00:00:00.000Z", "body": { "call_id": "c1" },
                })
            );
        }
        let errors: Vec<&str> = lines.iter().filter_map(|line| line["error"].as_str()).collect();
        assert_eq!(errors.len(), 4);
        assert!(errors[0].contains("unreadable journal step"), "{errors:?}");
        assert!(errors[2].contains("version 9") && errors[2].contains("newer"), "{errors:?}");
        assert_eq!(lines[3]["version"], 9);
        let told = complaint(&reads, 6).unwrap();
        assert!(told.starts_with("4 of 6 steps cannot be read, the first is step 2: "), "{told}");
    }

    #[test]
    fn a_journal_that_lost_its_end_is_told_and_a_whole_one_is_not() {
        assert_eq!(complaint(&all(&[step()]), 1), None);
        assert_eq!(complaint(&all(&[step(), step()]), 1), None);
        assert_eq!(complaint(&all(&[step()]), 3).unwrap(), "1 steps are there where 3 were written");
    }
}
