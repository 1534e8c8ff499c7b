//! Keeps the conversation within the model's window: old tool outputs become one line each.
//!
//! Seldom and thoroughly: each time costs the provider's prompt cache, so it begins late and goes
//! far. It is a function of the conversation alone, so a replayed journal compacts alike. Nothing
//! is lost: the journal keeps all.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::conversation::{Conversation, Entry, Output};
use crate::prompts::sanitise::cap;
use crate::settings::AgentSettings;

/// Outputs shorter than this, in bytes, stay: the line in their place would be no shorter.
const SHORT_OUTPUT: usize = 240;
/// Strings in a call's arguments longer than this, in bytes, are left out of old calls; of words
/// that are twice as long, this much is kept.
const LONG_ARGUMENT: usize = 400;
/// Newest outputs that are kept once the provider has said that the conversation is too long.
const KEPT_WHEN_TOO_LONG: usize = 2;
/// Tools that change the file at their `path`.
const CHANGES_FILES: [&str; 2] = ["edit_file", "write_file"];

/// How far compaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Past `agent.compact_at`.
    Usual,
    /// The provider said that it is too long.
    Harder,
    /// It said so again.
    Hardest,
}

/// What the model takes, as far as known, and what was done to keep within it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// Tokens of a request that are known to be near too many: the provider said so.
    refused: Option<u64>,
    /// How far the next compaction goes if the provider says again that it is too long.
    next: Option<Depth>,
}

impl Window {
    pub(super) fn new() -> Self {
        Window { refused: None, next: Some(Depth::Harder) }
    }

    /// The model took the conversation as it is.
    pub(super) fn held(&mut self) {
        self.next = Some(Depth::Harder);
    }

    /// The size that compaction aims at, from the smaller of the setting and what was learned.
    fn target(&self, settings: &AgentSettings) -> u64 {
        share(self.refused.unwrap_or(u64::MAX).min(settings.context_window), settings.compact_to)
    }

    /// Compacts if the conversation is past `agent.compact_at` and enough can be left out; whether
    /// it did.
    pub(super) fn keep_within(&self, settings: &AgentSettings, conversation: &mut Conversation) -> bool {
        let window = settings.context_window;
        let room = window.saturating_sub(u64::from(settings.max_answer_tokens));
        let room = room.min(self.refused.unwrap_or(u64::MAX));
        if conversation.tokens() <= share(window, settings.compact_at).min(room) {
            return false;
        }
        let mut compacted = conversation.clone();
        let saved =
            compact(&mut compacted, self.target(settings), Depth::Usual, settings.keep_outputs as usize);
        let worth_it = saved >= window / 20 || (saved > 0 && conversation.tokens() > room);
        if worth_it {
            *conversation = compacted;
        }
        worth_it
    }

    /// The provider said that the conversation is too long: compacts harder each time. False where
    /// nothing more can be left out.
    pub(super) fn too_long(&mut self, settings: &AgentSettings, conversation: &mut Conversation) -> bool {
        let size = conversation.tokens();
        // By our own count, which may differ from the provider's: hence some room.
        self.refused = Some(self.refused.unwrap_or(u64::MAX).min(size / 10 * 9));
        let target = self.target(settings).min(size / 2);
        while let Some(depth) = self.next {
            self.next = match depth {
                Depth::Usual | Depth::Harder => Some(Depth::Hardest),
                Depth::Hardest => None,
            };
            let (target, keep) = match depth {
                Depth::Usual | Depth::Harder => (target, KEPT_WHEN_TOO_LONG),
                Depth::Hardest => (0, 0),
            };
            if compact(conversation, target, depth, keep) > 0 {
                return true;
            }
        }
        false
    }
}

fn share(tokens: u64, share: f64) -> u64 {
    // Windows are far below 2^53: exact as f64; a share is 0 to 1, so the product fits.
    (tokens as f64 * share) as u64
}

/// Leaves out what is oldest until at most `target` tokens are left: first outputs, but not the
/// `keep` newest nor the newest reading of a file that was changed; then those readings; then long
/// arguments of old calls, and at the hardest long words. How many tokens that saved.
fn compact(conversation: &mut Conversation, target: u64, depth: Depth, keep: usize) -> u64 {
    let before = conversation.tokens();
    let outputs = places(conversation, |entry| matches!(entry, Entry::Tool(_)));
    let old = &outputs[..outputs.len().saturating_sub(keep)];
    let readings = readings_of_changed_files(conversation);
    let passes = [
        old.iter().copied().filter(|at| !readings.contains(at)).collect::<Vec<_>>(),
        old.iter().copied().filter(|at| readings.contains(at)).collect(),
    ];
    for at in passes.into_iter().flatten() {
        if conversation.tokens() <= target {
            break;
        }
        leave_out_output(conversation, at);
    }
    let newest_kept = outputs.get(outputs.len().saturating_sub(keep)).copied();
    for at in places(conversation, |entry| matches!(entry, Entry::Assistant { .. })) {
        let is_kept = depth != Depth::Hardest && newest_kept.is_some_and(|kept| at + 1 >= kept);
        if conversation.tokens() <= target || is_kept {
            break;
        }
        shorten(conversation, at, depth);
    }
    before.saturating_sub(conversation.tokens())
}

fn places(conversation: &Conversation, wanted: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let all = conversation.entries.iter().enumerate();
    all.filter(|(_, entry)| wanted(entry)).map(|(at, _)| at).collect()
}

/// Where the newest reading stands of each file that was changed.
fn readings_of_changed_files(conversation: &Conversation) -> BTreeSet<usize> {
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    for entry in &conversation.entries {
        if let Entry::Tool(Output { tool, path: Some(path), .. }) = entry
            && CHANGES_FILES.contains(&tool.as_str())
        {
            changed.insert(path);
        }
    }
    let mut readings = BTreeSet::new();
    for (at, entry) in conversation.entries.iter().enumerate().rev() {
        if let Entry::Tool(Output { tool, path: Some(path), left_out: false, .. }) = entry
            && tool == "read_file"
            && changed.remove(path.as_str())
        {
            readings.insert(at);
        }
    }
    readings
}

/// One line in place of an output.
fn leave_out_output(conversation: &mut Conversation, at: usize) {
    let Some(Entry::Tool(output)) = conversation.entries.get(at) else { return };
    if output.left_out || output.text.len() < SHORT_OUTPUT {
        return;
    }
    let about = output.path.as_ref().map(|path| format!(" of {path}")).unwrap_or_default();
    let text = format!(
        "[output of {}{about} left out to save room: {} lines; call the tool again if you need it]",
        output.tool,
        output.text.lines().count(),
    );
    let shorter = Output { text, left_out: true, ..output.clone() };
    conversation.replace(at, Entry::Tool(shorter));
}

/// Long texts left out of what the model said: a file's content in a call was written long ago. The
/// arguments stay an object of the same names.
fn shorten(conversation: &mut Conversation, at: usize, depth: Depth) {
    let Some(Entry::Assistant { content, calls }) = conversation.entries.get(at) else { return };
    let mut calls = calls.clone();
    for call in &mut calls {
        let Ok(mut arguments) = serde_json::from_str::<Map<String, Value>>(&call.arguments) else { continue };
        for value in arguments.values_mut() {
            let size = value.as_str().map_or_else(|| value.to_string().len(), str::len);
            if size > LONG_ARGUMENT {
                *value = Value::String(format!("[{size} bytes left out to save room]"));
            }
        }
        let text = Value::Object(arguments).to_string();
        if text.len() < call.arguments.len() {
            call.arguments = text;
        }
    }
    let content = content.as_ref().map(|words| match depth {
        Depth::Hardest if words.len() > 2 * LONG_ARGUMENT => cap(words, LONG_ARGUMENT),
        Depth::Usual | Depth::Harder | Depth::Hardest => words.clone(),
    });
    conversation.replace(at, Entry::Assistant { content, calls });
}

#[cfg(test)]
mod tests {
    use steadfast_core::chat::{Message, ToolCall};

    use super::*;
    use crate::settings::tests::settings;

    /// A conversation of `outputs` readings of 4,000 bytes each, of files a0, a1, ...
    fn readings(outputs: usize) -> Conversation {
        let mut conversation = Conversation::begin("rules", "task", &[]);
        for n in 0..outputs {
            say(&mut conversation, "read_file", &format!(r#"{{"path":"a{n}"}}"#), &"0123456\n".repeat(500));
        }
        conversation
    }

    fn say(conversation: &mut Conversation, tool: &str, arguments: &str, output: &str) {
        let call = ToolCall { id: format!("c-{tool}"), name: tool.into(), arguments: arguments.into() };
        conversation.model_said(None, std::slice::from_ref(&call));
        conversation.answered(&call, output);
    }

    fn whole(conversation: &Conversation) -> Vec<&str> {
        let outputs = conversation.entries.iter().filter_map(|entry| match entry {
            Entry::Tool(output) if output.text.len() > SHORT_OUTPUT => output.path.as_deref(),
            Entry::Tool(_) | Entry::System(_) | Entry::User(_) | Entry::Assistant { .. } => None,
        });
        outputs.collect()
    }

    fn small() -> AgentSettings {
        AgentSettings { context_window: 20_000, max_answer_tokens: 1_000, keep_outputs: 3, ..settings() }
    }

    #[test]
    fn it_begins_late_and_goes_far() {
        let settings = small();
        let window = Window::new();
        let mut early = readings(15);
        assert!(!window.keep_within(&settings, &mut early), "{} of 20000 tokens", early.tokens());
        let mut late = readings(16);
        assert!(window.keep_within(&settings, &mut late));
        assert!((6_500..=8_000).contains(&late.tokens()), "{} and not further", late.tokens());
        assert!(whole(&late).ends_with(&["a13", "a14", "a15"]), "{:?}", whole(&late));
        assert!(!whole(&late).contains(&"a0"));
        assert!(!window.keep_within(&settings, &mut late), "not again at once");
    }

    #[test]
    fn what_was_changed_is_kept_longest() {
        let settings = small();
        let mut conversation = readings(1);
        say(&mut conversation, "edit_file", r#"{"path":"a0","old_string":"a","new_string":"b"}"#, "ok");
        for n in 1..16 {
            say(&mut conversation, "read_file", &format!(r#"{{"path":"b{n}"}}"#), &"0123456\n".repeat(500));
        }
        assert!(Window::new().keep_within(&settings, &mut conversation));
        assert!(whole(&conversation).contains(&"a0"));
        let ok = conversation.entries.iter().any(|e| matches!(e, Entry::Tool(o) if o.text == "ok"));
        assert!(ok, "a line in place of two letters saves nothing");
        assert!(!whole(&conversation).contains(&"b1"));
    }

    #[test]
    fn a_line_says_what_stood_there_and_notes_stay() {
        let mut conversation = readings(1);
        conversation.note("one turn is left");
        leave_out_output(&mut conversation, 3);
        let messages = conversation.messages();
        let Some(Message::Tool { content, .. }) = messages.last() else { panic!("{messages:?}") };
        let line = "[output of read_file of a0 left out to save room: 500 lines; call the tool again if you \
                    need it]\n\n[steadfast: one turn is left]";
        assert_eq!(content, line);
    }

    #[test]
    fn too_long_goes_harder_each_time_and_then_gives_up() {
        let settings = small();
        let mut window = Window::new();
        let mut conversation = readings(10);
        let content = "x".repeat(4_000);
        say(&mut conversation, "write_file", &format!(r#"{{"path":"w","content":"{content}"}}"#), "written");
        conversation.model_said(Some(&"word ".repeat(400)), &[]);
        let first = conversation.tokens();
        assert!(window.too_long(&settings, &mut conversation));
        let second = conversation.tokens();
        assert!(second <= first / 2, "{first} {second}");
        assert!(window.too_long(&settings, &mut conversation));
        assert!(conversation.tokens() < second);
        let text = format!("{:?}", conversation.messages());
        assert!(!text.contains("0123456") && !text.contains("xxxx") && text.len() < 8_000, "{text}");
        assert!(text.contains("[1600 of 2000 bytes left out]") && text.contains("rules"), "{text}");
        assert!(!window.too_long(&settings, &mut conversation), "nothing is left to leave out");
        window.held();
        assert!(!window.too_long(&settings, &mut conversation));
    }

    #[test]
    fn the_window_shrinks_to_what_the_provider_took() {
        let settings = small();
        let mut window = Window::new();
        let mut conversation = readings(8);
        assert!(!window.keep_within(&settings, &mut conversation));
        assert!(window.too_long(&settings, &mut conversation));
        let mut again = readings(8);
        assert!(window.keep_within(&settings, &mut again), "8 outputs were too long before");
    }
}
