//! The worker's log, retold for people: one JSON line in, at most one line of the story out.

use std::collections::BTreeMap;
use std::time::Duration;

use console::Style;
use serde_json::Value;
use steadfast_core::time::Timestamp;

/// What is known of one job from the log.
#[derive(Clone, Debug, Default)]
pub struct JobStory {
    /// Its place in the order of submission, from 1.
    pub number: usize,
    /// Model turns.
    pub turns: u64,
    /// Times that it was parked.
    pub parks: u64,
    /// Waits that it sat through or was parked for.
    pub waited: Duration,
    /// Calls that a rate limit rejected.
    pub limited: u64,
    /// Tokens, as the server counted them.
    pub tokens: u64,
    /// How it ended, and why.
    pub end: Option<(String, String)>,
    /// Its pull request.
    pub url: Option<String>,
}

/// The story so far.
#[derive(Debug)]
pub struct Story {
    jobs: BTreeMap<String, JobStory>,
    color: bool,
    /// Lines that moved a job on, for noticing that nothing moves.
    pub progress: u64,
    /// Calls that a rate limit rejected, with or without a job.
    pub limited: u64,
    last_warning: Option<String>,
}

impl Story {
    /// A story about these jobs, in the order of submission.
    pub fn new(jobs: impl IntoIterator<Item = String>, color: bool) -> Self {
        let number = |(position, id)| (id, JobStory { number: position + 1, ..JobStory::default() });
        Story {
            jobs: jobs.into_iter().enumerate().map(number).collect(),
            color,
            progress: 0,
            limited: 0,
            last_warning: None,
        }
    }

    /// The jobs in the order of submission.
    pub fn jobs(&self) -> Vec<(&str, &JobStory)> {
        let mut jobs: Vec<_> = self.jobs.iter().map(|(id, job)| (id.as_str(), job)).collect();
        jobs.sort_by_key(|(_, job)| job.number);
        jobs
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.jobs.values().filter(|job| job.end.is_some()).count()
    }

    /// The newest warning or error, for when it goes wrong.
    pub fn last_warning(&self) -> Option<&str> {
        self.last_warning.as_deref()
    }

    /// Takes in one line of the log. `at` is the time since the start. Lines that are no JSON are
    /// told as they are: a panic's message, for one.
    pub fn line(&mut self, at: Duration, line: &str) -> Option<String> {
        let Ok(Value::Object(event)) = serde_json::from_str::<Value>(line) else {
            let line = line.trim();
            if line.is_empty() {
                return None;
            }
            self.last_warning = Some(line.to_owned());
            return Some(self.paint(&Style::new().red(), line));
        };
        let event = Event(&event);
        if matches!(event.text("level"), "WARN" | "ERROR") {
            self.last_warning = Some(line.to_owned());
        }
        let told = self.tell(&event)?;
        let who = match self.jobs.get(event.job()) {
            Some(job) => format!("job {:<3}", job.number),
            None => " ".repeat(7),
        };
        let clock = self.paint(&Style::new().dim(), &format!("{:>6.1}s", at.as_secs_f64()));
        Some(format!("{clock}  {who} {told}"))
    }

    fn tell(&mut self, event: &Event<'_>) -> Option<String> {
        let (message, level) = (event.text("message"), event.text("level"));
        let (green, yellow, red) = (Style::new().green(), Style::new().yellow(), Style::new().red());
        let color = self.color;
        let paint = |style: &Style, text: &str| paint(color, style, text);
        let wait = Duration::from_millis(event.number("wait_ms"));
        let provider = event.text("provider");
        let limited = message == "rate limited";
        self.limited += u64::from(limited);
        if let Some(told) = match message {
            "rate limited" => {
                let attempt = event.number("attempt");
                let operation = event.text("operation");
                Some(format!("{provider} {operation}: rate limited (try {attempt}), waits {}", short(wait)))
            }
            "gate closed" => {
                Some(format!("{provider}: {}, nobody asks for {}", event.text("reason"), short(wait)))
            }
            _ => None,
        } {
            if let Some(job) = self.jobs.get_mut(event.job()).filter(|_| limited) {
                job.limited += 1;
                job.waited += wait;
            }
            return Some(paint(&yellow, &told));
        }
        let warning = match level {
            "WARN" | "ERROR" => Some(paint(&red, &print_safe(&format!("{message} {}", event.text("error"))))),
            _ => None,
        };
        let Some(job) = self.jobs.get_mut(event.job()) else { return warning };
        let told = match message {
            "job claimed" => match event.number("steps") {
                0 => "claimed".to_owned(),
                steps => format!("claimed again, goes on after step {steps}"),
            },
            "model answered" => {
                job.turns = job.turns.max(event.number("turn")).max(1);
                let tokens = event.number("prompt_tokens") + event.number("completion_tokens");
                job.tokens += tokens;
                let tools = event.text("tools").replace(' ', ", ");
                let what = if tools.is_empty() { "says something".to_owned() } else { tools };
                format!("turn {}: {} ({tokens} tokens)", job.turns, print_safe(&what))
            }
            "tool finished" => {
                let failed = if event.flag("ok") { "" } else { ": failed, and the model is told why" };
                format!("  {}{failed}", print_safe(event.text("tool")))
            }
            "commented on the issue" => format!("comment {}", event.text("url")),
            "branch pushed" => format!("branch {}", event.text("branch")),
            "job parked" => {
                let parked = event.time("until").zip(event.time("timestamp"));
                let parked = parked.map_or(Duration::ZERO, |(until, now)| until.since(now));
                job.parks += 1;
                job.waited += parked;
                let why = print_safe(event.text("why"));
                paint(&yellow, &format!("parked for {} ({why}), its slot is free", short(parked)))
            }
            "job requeued" => {
                let why = [event.text("error"), event.text("reason")].concat();
                paint(&yellow, &format!("back into the queue for {}: {}", short(wait), print_safe(&why)))
            }
            "job released" => "given back to the queue".to_owned(),
            "pull request opened" => {
                job.url = Some(event.text("url").to_owned());
                paint(&green, &format!("pull request {}", event.text("url")))
            }
            "job ended" => {
                let (status, reason) = (event.text("status").to_owned(), event.text("reason").to_owned());
                if !event.text("pull_request").is_empty() {
                    job.url = Some(event.text("pull_request").to_owned());
                }
                let told = format!("{status} ({reason}) after {} turns", job.turns);
                let style = if status == "completed" { green.bold() } else { red.bold() };
                job.end = Some((status, reason));
                paint(&style, &told)
            }
            _ => return warning,
        };
        // Waiting is no progress: jobs that are claimed and parked in turn for ever are stuck.
        let waits = matches!(message, "job claimed" | "job parked" | "job requeued" | "job released");
        self.progress += u64::from(!waits);
        Some(told)
    }

    fn paint(&self, style: &Style, text: &str) -> String {
        paint(self.color, style, text)
    }
}

/// One line without control characters: some of these texts were written by a model.
fn print_safe(text: &str) -> String {
    let flat = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    flat.take(200).collect()
}

fn paint(color: bool, style: &Style, text: &str) -> String {
    if color { style.clone().force_styling(true).apply_to(text).to_string() } else { text.to_owned() }
}

/// `850ms`, `12.3s`, `4m10s`.
pub fn short(time: Duration) -> String {
    match time.as_millis() {
        0..1_000 => format!("{}ms", time.as_millis()),
        1_000..60_000 => format!("{:.1}s", time.as_secs_f64()),
        _ => format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// One line of the log; its fields stand at its root, those of its span under `span`.
struct Event<'a>(&'a serde_json::Map<String, Value>);

impl Event<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or("")
    }

    fn number(&self, name: &str) -> u64 {
        let value = self.0.get(name);
        value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())).unwrap_or(0)
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        self.text(name).parse().ok()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn job(&self) -> &str {
        let span = self.0.get("span").and_then(|span| span.get("job")).and_then(Value::as_str);
        self.0.get("job").and_then(Value::as_str).or(span).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(story: &mut Story, line: &str) -> String {
        story.line(Duration::from_millis(1_500), line).unwrap_or_default()
    }

    #[test]
    fn a_job_from_claim_to_pull_request() {
        let mut story = Story::new(["a".to_owned(), "b".to_owned()], false);
        let lines = [
            r#"{"level":"INFO","message":"job claimed","job":"b","steps":0}"#,
            r#"{"level":"INFO","message":"model answered","span":{"job":"b"},"turn":2,"prompt_tokens":100,"completion_tokens":20,"tools":"read_file run_command"}"#,
            r#"{"level":"INFO","message":"tool finished","job":"b","tool":"read_file","ok":true}"#,
            r#"{"level":"INFO","message":"tool finished","job":"b","tool":"run_command","ok":false}"#,
            r#"{"level":"INFO","message":"rate limited","span":{"job":"b"},"provider":"llm","operation":"chat","attempt":1,"wait_ms":2500}"#,
            r#"{"level":"INFO","message":"gate closed","provider":"llm","reason":"rate limit","wait_ms":70000}"#,
            r#"{"level":"INFO","timestamp":"2025-10-09T00:00:00.5Z","message":"job parked","job":"b","until":"2025-10-09T00:01:10.500Z","why":"rate limit"}"#,
            r#"{"level":"INFO","message":"job claimed","job":"b","steps":4}"#,
            r#"{"level":"WARN","message":"job requeued","job":"b","wait_ms":1000,"error":"502 from \u001b[31mgithub"}"#,
            r#"{"level":"INFO","message":"branch pushed","job":"b","branch":"steadfast/issue-1-abc"}"#,
            r#"{"level":"INFO","message":"pull request opened","job":"b","url":"http://x/pull/1"}"#,
            r#"{"level":"INFO","message":"job ended","job":"b","status":"completed","reason":"pull_request","turns":"2"}"#,
        ];
        let all: Vec<String> = lines.iter().map(|line| told(&mut story, line)).collect();
        insta::assert_snapshot!(all.join("\n"));
        assert_eq!((story.ended(), story.progress, story.limited), (1, 6, 1));
        let job = story.jobs()[1].1;
        assert_eq!((job.turns, job.tokens, job.parks, job.limited), (2, 120, 1, 1));
        assert_eq!(job.waited, Duration::from_millis(72_500));
    }

    #[test]
    fn what_is_no_event_of_a_job_is_told_only_if_it_warns() {
        let mut story = Story::new(["a".to_owned()], false);
        assert_eq!(told(&mut story, r#"{"level":"INFO","message":"meters"}"#), "");
        assert_eq!(told(&mut story, r#"{"level":"INFO","message":"job claimed","job":"other"}"#), "");
        let warning = told(&mut story, r#"{"level":"WARN","message":"store away","error":"refused"}"#);
        assert!(warning.ends_with("store away refused"), "{warning}");
        assert_eq!(told(&mut story, "thread 'main' panicked"), "thread 'main' panicked");
        assert_eq!(story.last_warning(), Some("thread 'main' panicked"));
        assert_eq!(story.progress, 0);
    }

    #[test]
    fn times_are_short() {
        let shown: Vec<String> = [5, 999, 1_000, 59_940, 60_000, 250_000]
            .map(|millis| short(Duration::from_millis(millis)))
            .to_vec();
        assert_eq!(shown, ["5ms", "999ms", "1.0s", "59.9s", "1m00s", "4m10s"]);
    }
}
