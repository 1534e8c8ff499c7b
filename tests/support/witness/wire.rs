//! What the witness sees of the wire: who sends for which job, how much of it at once, and what came
//! of it in the world.

use std::sync::Arc;

use bytes::Bytes;
use steadfast_core::job::{Job, JobId};
use steadfast_store::{State, Store};

use super::{Known, Witness, in_the_last_minute};

/// Model calls beyond twice the limit that are no wonder.
const SLACK: usize = 5;

/// What a request is, as far as the witness can tell.
pub struct Asked {
    pub job: Option<JobId>,
    pub is_chat: bool,
    marker: Option<String>,
}

/// A model call in flight, until it is dropped.
pub struct InFlight {
    witness: Arc<Witness>,
    process: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(count) = self.witness.book().in_flight.get_mut(&self.process) {
            *count -= 1;
        }
    }
}

impl Witness {
    /// What a request is about.
    pub fn reads(&self, request: &http::Request<Bytes>) -> Asked {
        let path = request.uri().path();
        let is_chat = path.ends_with("/chat/completions");
        let body = std::str::from_utf8(request.body()).unwrap_or_default();
        let marker = body.split_once("<!-- steadfast job=").and_then(|(_, rest)| rest.split_once(" -->"));
        let marker = marker.filter(|_| !is_chat).map(|(inner, _)| format!("<!-- steadfast job={inner} -->"));
        let book = self.book();
        let issue = path.split_once("/issues/").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        let is_its = |job: &Job| {
            let own = job.task_params.issue_number;
            let by_marker = marker.as_ref().is_some_and(|marker| {
                let key = steadfast_core::effect::EffectKey::Progress;
                let own = steadfast_core::effect::marker(&job.id, &key);
                own.split(' ').nth(2) == marker.split(' ').nth(2)
            });
            let by_title =
                is_chat && job.task_params.issue_title.as_deref().is_some_and(|title| body.contains(title));
            by_marker || by_title || (own.is_some() && own == issue)
        };
        let job = book.jobs.values().find(|known| is_its(&known.job)).map(|known| known.job.id.clone());
        Asked { job, is_chat, marker }
    }

    /// A process sends something for a job: it must hold it, and know that it does.
    pub async fn sends(&self, process: &str, job: &JobId, what: &str) {
        {
            let mut book = self.book();
            if let Some(disturbed) = book.jobs.get(job).map(|known| known.disturbed) {
                book.asked.insert((job.clone(), self.world.now()), disturbed);
            }
        }
        let (Ok(now), Some(found)) = (self.store.now().await, self.found(job).await) else { return };
        let holds = self.book().jobs.get(job).is_some_and(|known| known.holder == process);
        if found.state != State::Running || !holds {
            self.accuse(Some(job), format!("{process} sends {what}, though it does not hold the job"));
        } else if found.at <= now {
            self.accuse(Some(job), format!("{process} sends {what}, though its lease is over"));
        }
    }

    /// A process begins a model call.
    pub fn begins_chat(self: &Arc<Self>, process: &str) -> InFlight {
        let count = {
            let mut book = self.book();
            let count = book.in_flight.entry(process.to_owned()).or_default();
            *count += 1;
            *count
        };
        let most = self.limits.flight;
        if most > 0 && count > most {
            self.accuse(None, format!("{process} has {count} model calls in flight, {most} are allowed"));
        }
        let (sent, most) = (in_the_last_minute(&mut self.book().sent), self.limits.requests as usize);
        // A window's end and the next one's beginning may fall into one minute; and who died may have
        // sent what nobody counts.
        if most > 0 && sent > 2 * most + SLACK {
            self.accuse(None, format!("{sent} model calls within a minute, {most} are known to be allowed"));
        }
        InFlight { witness: Arc::clone(self), process: process.to_owned() }
    }

    /// Looks at what came of a request: effects stand once, and no answered question is asked again
    /// without a cause.
    pub fn looks_at_the_world(&self, asked: &Asked) {
        if let Some(marker) = &asked.marker {
            let stands = self.world.standing(marker);
            if stands > 1 {
                self.accuse(asked.job.as_ref(), format!("{marker} stands {stands} times"));
            }
        }
        if asked.is_chat {
            self.looks_at_chats();
        }
    }

    fn looks_at_chats(&self) {
        let mut again = Vec::new();
        {
            let mut book = self.book();
            let from = book.chats;
            let new = self.world.chats_from(from);
            book.chats += new.len();
            for (index, chat) in (from..).zip(new).filter(|(_, chat)| chat.status == 200) {
                let number = |known: &&Known| known.job.task_params.issue_number;
                let known =
                    book.jobs.values().find(|known| chat.issue.is_some() && number(known) == chat.issue);
                let Some((job, disturbed)) = known.map(|known| (known.job.id.clone(), known.disturbed))
                else {
                    continue;
                };
                let disturbed = book.asked.get(&(job.clone(), chat.at)).copied().unwrap_or(disturbed);
                let key = (job.clone(), chat.prompt_hash);
                let before = book.questions.entry(key).or_default();
                let whole = |(index, _): &&(usize, u64)| self.world.chat_was_delivered(*index);
                if before.iter().filter(whole).any(|(_, then)| *then == disturbed) {
                    again.push((job, chat.turn));
                }
                before.push((index, disturbed));
            }
        }
        for (job, turn) in again {
            let what = format!("turn {} was paid for and is asked again, though nothing happened", turn + 1);
            self.accuse(Some(&job), what);
        }
    }
}
