//! The inbox: entries of the stream become jobs, or dead letters. The stream is only the way in;
//! leases work from the store's own keys.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Value, cmd};
use steadfast_core::job::Job;

use super::Core;
use super::failure::{is_busy_group, is_no_group};
use super::keys::GROUP;
use super::link::Call;
use crate::Result;

/// Most entries that are read at once.
const PAGE: usize = 64;

/// Most reads of one call: a flood is taken in over several claims.
const PAGES: usize = 16;

/// Most times that the inbox is read anew because an answer was lost.
const READS: usize = 3;

/// Most dead letters that are kept, roughly.
const DEAD_LETTERS: usize = 1000;

/// Most fields of an entry that a dead letter repeats; a script cannot pass on more.
const FIELDS: usize = 1000;

/// The one field that a job is in.
const JOB_FIELD: &[u8] = b"jobData";

/// What is known of our own reading of the inbox.
pub(super) struct Inbox {
    /// One reader a process: two would only be in each other's way.
    reading: tokio::sync::Mutex<String>,
    /// Entries may have been delivered to us without our having seen them: at the start (to a
    /// process of our name before us), and after a read that was cut off.
    pub uncertain: AtomicBool,
    /// A look found entries: the next claim begins with them.
    pub hinted: AtomicBool,
}

impl Inbox {
    pub fn new() -> Self {
        Inbox {
            reading: tokio::sync::Mutex::new("0-0".into()),
            uncertain: AtomicBool::new(true),
            hinted: AtomicBool::new(false),
        }
    }
}

/// An entry of the stream: its id, and its fields unless it was deleted.
struct Entry {
    id: Vec<u8>,
    fields: Option<Vec<Vec<u8>>>,
}

impl Core {
    /// Admits what the inbox holds: what is new, and what was delivered to somebody who died.
    pub async fn take_in(&self) -> Result<()> {
        let mut cursor = self.inbox.reading.lock().await;
        for _ in 0..READS {
            let certain = self.read_all(&mut cursor).await?;
            self.inbox.uncertain.store(!certain, Ordering::Relaxed);
            if certain {
                break;
            }
        }
        Ok(())
    }

    /// Reads and admits; whether all that was delivered to us was seen.
    async fn read_all(&self, cursor: &mut String) -> Result<bool> {
        let mut certain = !self.inbox.uncertain.load(Ordering::Relaxed);
        for _ in 0..PAGES {
            if certain {
                break;
            }
            // Ours from before; to ask twice for these does no harm.
            let (ours, _) = self.read("0").await?;
            self.admit(&ours).await?;
            certain = ours.is_empty();
        }
        // From here until all is admitted, an end of this call leaves entries behind.
        self.inbox.uncertain.store(true, Ordering::Relaxed);
        // Both at once: they go in one write.
        let (adopted, first) = tokio::join!(self.adopt(cursor), self.read(">"));
        let ((next, orphans, adopted_once), (mut new, read_once)) = (adopted?, first?);
        certain &= adopted_once && read_once;
        self.admit(&orphans).await?;
        *cursor = next;
        for _ in 1..PAGES {
            self.admit(&new).await?;
            if new.len() < PAGE {
                return Ok(certain);
            }
            let (further, asked_once) = self.read(">").await?;
            certain &= asked_once;
            new = further;
        }
        self.admit(&new).await?;
        Ok(certain)
    }

    /// Reads entries that nobody had (`>`), or those that we had before (`0`); and whether the server
    /// was asked once, so that nothing went to an answer that was lost.
    async fn read(&self, from: &str) -> Result<(Vec<Entry>, bool)> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&*self.runner).arg("COUNT").arg(PAGE);
        read.arg("STREAMS").arg(self.keys.stream()).arg(from);
        let (answer, asked_once) = self.in_group(&read).await?;
        // [[stream, [entry, ...]]], or nil.
        let streams = elements(answer);
        let entries = streams.into_iter().next().map(elements).and_then(|mut stream| stream.pop());
        Ok((entries.map(entries_of).unwrap_or_default(), asked_once))
    }

    /// Takes over entries that others have had for longer than any admission takes.
    async fn adopt(&self, cursor: &str) -> Result<(String, Vec<Entry>, bool)> {
        let mut adopt = cmd("XAUTOCLAIM");
        adopt.arg(self.keys.stream()).arg(GROUP).arg(&*self.runner).arg(self.pending_limit());
        adopt.arg(cursor).arg("COUNT").arg(PAGE);
        let (answer, asked_once) = self.in_group(&adopt).await?;
        let mut answer = elements(answer).into_iter();
        let next = answer.next().map(bytes).and_then(|next| String::from_utf8(next).ok());
        let entries = answer.next().map(entries_of).unwrap_or_default();
        Ok((next.unwrap_or_else(|| "0-0".into()), entries, asked_once))
    }

    /// How long an entry may be pending before it counts as forgotten, in milliseconds.
    pub fn pending_limit(&self) -> u64 {
        millis(self.lease)
    }

    /// Runs a command that needs the group, making it if it is gone.
    async fn in_group(&self, command: &redis::Cmd) -> Result<(Value, bool)> {
        let answer = match self.link.told(command).await {
            Err(error) if is_no_group(&error) => {
                self.make_group().await?;
                self.link.told(command).await
            }
            answer => answer,
        };
        answer.map_err(|error| self.link.failure(&error))
    }

    /// Makes the group, and the stream with it, from the first entry on.
    pub async fn make_group(&self) -> Result<()> {
        let mut make = cmd("XGROUP");
        make.arg("CREATE").arg(self.keys.stream()).arg(GROUP).arg(0).arg("MKSTREAM");
        let answer = self.link.raw(&make).await;
        match answer {
            Ok(_) => {
                tracing::info!(store = %self.link.shown, group = GROUP, "consumer group made");
                Ok(())
            }
            Err(error) if is_busy_group(&error) => Ok(()),
            Err(error) => Err(self.link.failure(&error)),
        }
    }

    async fn admit(&self, entries: &[Entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut call = self.call().arg(GROUP).arg(DEAD_LETTERS);
        for entry in entries {
            call = call.bytes(&entry.id);
            let Some(fields) = &entry.fields else {
                call = call.arg("-").arg("gone").arg(0);
                continue;
            };
            match self.job_in(fields) {
                Ok((job, at)) => {
                    call = call.arg(&job.id).arg(at);
                    call = self.wishes(&job).into_iter().fold(call, Call::arg);
                }
                Err(reason) => {
                    tracing::warn!(
                        entry = %String::from_utf8_lossy(&entry.id),
                        reason,
                        "unreadable entry set aside as a dead letter"
                    );
                    call = call.arg("").arg(reason);
                }
            }
            let kept = &fields[..fields.len().min(2 * FIELDS)];
            call = call.arg(kept.len());
            for part in kept {
                call = call.bytes(part);
            }
        }
        let (queued, duplicates, dead): (u64, u64, u64) =
            self.link.script(&self.scripts.admit, &call).await?;
        tracing::debug!(queued, duplicates, dead, "inbox taken in");
        Ok(())
    }

    /// What a job wishes of the queue, as admission wants it: its priority and repository, its earliest
    /// time, what it is to be alone with, and its result should it be joined to another.
    pub fn wishes(&self, job: &Job) -> [String; 5] {
        let place = format!("{:02}|{}", 9 - job.priority(), job.repository_key());
        let not_before = job.not_before().map(|at| at.millis().to_string());
        let unique = job.unique_key(self.unique_issues).unwrap_or_default();
        let (before, after) = match unique.as_str() {
            "" => Default::default(),
            _ => self.joined.clone(),
        };
        [place, not_before.unwrap_or_default(), unique, before, after]
    }

    /// The job of an entry, and the place of its JSON among the fields and values.
    fn job_in(&self, fields: &[Vec<u8>]) -> std::result::Result<(Job, usize), String> {
        let names = fields.iter().step_by(2).take(FIELDS);
        let place = names.into_iter().position(|name| name == JOB_FIELD).map(|pair| pair * 2 + 1);
        let found = place.and_then(|at| Some((at, fields.get(at)?)));
        let Some((at, json)) = found else { return Err("no field jobData".into()) };
        let json = std::str::from_utf8(json).map_err(|_| "jobData is not UTF-8".to_owned())?;
        let job = self.caps.read_job(json).map_err(|error| error.to_string())?;
        Ok((job, at))
    }
}

/// A duration in whole milliseconds, as Redis wants it.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn entries_of(value: Value) -> Vec<Entry> {
    let entry = |value: Value| {
        let mut parts = elements(value).into_iter();
        let id = bytes(parts.next()?);
        let fields = match parts.next() {
            None | Some(Value::Nil) => None,
            Some(fields) => Some(elements(fields).into_iter().map(bytes).collect()),
        };
        Some(Entry { id, fields })
    };
    elements(value).into_iter().filter_map(entry).collect()
}

fn elements(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements,
        // What the older protocol answers as an array of pairs.
        Value::Map(pairs) => pairs.into_iter().map(|(name, value)| Value::Array(vec![name, value])).collect(),
        _ => Vec::new(),
    }
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        Value::Int(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}
