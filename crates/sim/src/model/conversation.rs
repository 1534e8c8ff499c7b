//! What the simulated model sees of a conversation: the task, and the calls with their results, in
//! native tool calling or in the protocol of JSON objects.

use std::collections::HashSet;

use serde_json::Value;

/// One tool call that the model made, with what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    /// `None` if they were not JSON.
    pub(crate) arguments: Option<Value>,
    pub(crate) result: String,
}

/// A conversation so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// Everything that was said before the model's first turn.
    pub(crate) task: String,
    /// What users said, anywhere.
    pub(crate) user_text: String,
    pub(crate) exchanges: Vec<Exchange>,
    /// Assistant turns.
    pub(crate) turns: usize,
    /// Assistant turns without a tool call.
    pub(crate) prose_turns: usize,
    /// Whether tools are offered natively.
    pub(crate) native: bool,
    tools: HashSet<String>,
}

fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

impl Conversation {
    pub(crate) fn read(messages: &[Value], tools: &HashSet<String>) -> Self {
        let mut seen =
            Conversation { native: !tools.is_empty(), tools: tools.clone(), ..Conversation::default() };
        // Ids of native calls, with where their exchange is.
        let mut open: Vec<(String, usize)> = Vec::new();
        let mut awaits_json_result = false;
        for message in messages {
            let text = text_of(message);
            match message["role"].as_str().unwrap_or_default() {
                "assistant" => {
                    seen.turns += 1;
                    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
                    for call in calls {
                        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                        let name = call["function"]["name"].as_str().unwrap_or_default();
                        open.push((call["id"].as_str().unwrap_or_default().to_owned(), seen.exchanges.len()));
                        seen.push(name, serde_json::from_str(arguments).ok());
                    }
                    awaits_json_result = false;
                    if !calls.is_empty() {
                        continue;
                    }
                    match json_action(&text) {
                        Some((name, arguments)) if !seen.native => {
                            seen.push(&name, Some(arguments));
                            awaits_json_result = true;
                        }
                        _ => seen.prose_turns += 1,
                    }
                }
                "tool" => {
                    let id = message["tool_call_id"].as_str().unwrap_or_default();
                    if let Some((_, index)) = open.iter().rev().find(|(open_id, _)| open_id == id) {
                        seen.exchanges[*index].result = text;
                    }
                }
                role => {
                    if seen.turns == 0 {
                        seen.task.push_str(&text);
                        seen.task.push('\n');
                    }
                    if role == "user" {
                        seen.user_text.push_str(&text);
                        seen.user_text.push('\n');
                        if awaits_json_result && let Some(last) = seen.exchanges.last_mut() {
                            last.result.push_str(&text);
                        }
                    }
                }
            }
        }
        seen
    }

    fn push(&mut self, name: &str, arguments: Option<Value>) {
        self.exchanges.push(Exchange { name: name.to_owned(), arguments, result: String::new() });
    }

    /// Whether a tool may be called.
    pub(crate) fn offers(&self, tool: &str) -> bool {
        !self.native || self.tools.contains(tool)
    }

    /// Whether a tool was called.
    pub(crate) fn called(&self, tool: &str) -> bool {
        self.exchanges.iter().any(|call| call.name == tool)
    }

    /// Whether a call to read was not JSON. Clients may put an object in the place of such arguments
    /// before they send them back; it names no path.
    pub(crate) fn had_malformed(&self) -> bool {
        let has_path =
            |call: &Exchange| call.arguments.as_ref().is_some_and(|arguments| arguments["path"].is_string());
        self.exchanges.iter().any(|call| call.name == "read_file" && !has_path(call))
    }

    /// Calls that read, edit or write `path`, with their places in the conversation.
    pub(crate) fn on_file<'a>(
        &'a self,
        tools: &'a [&'a str],
        path: &'a str,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a Exchange)> {
        self.exchanges.iter().enumerate().filter(move |(_, call)| {
            let named = call.arguments.as_ref().and_then(|arguments| arguments["path"].as_str());
            tools.contains(&call.name.as_str())
                && named.is_some_and(|named| named.trim_start_matches("./") == path)
        })
    }

    /// Runs of a command that holds `part`, with their places.
    pub(crate) fn runs<'a>(
        &'a self,
        part: &'a str,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a Exchange)> {
        self.exchanges.iter().enumerate().filter(move |(_, call)| {
            let command = call.arguments.as_ref().and_then(|arguments| arguments["command"].as_str());
            call.name == "run_command" && command.is_some_and(|command| command.contains(part))
        })
    }
}

/// The action of an answer in the protocol of JSON objects.
fn json_action(text: &str) -> Option<(String, Value)> {
    let start = text.find('{')?;
    let end = text.rfind('}')?;
    let value: Value = serde_json::from_str(text.get(start..=end)?).ok()?;
    let action = value.get("action")?;
    Some((action.get("tool")?.as_str()?.to_owned(), action.get("parameters")?.clone()))
}

/// A line of a tool's output without the line number before it, and without its indentation. Tools
/// number lines in different ways: `12\ttext`, `  12 | text`, `12: text`, `12→text`.
pub(crate) fn unnumbered(line: &str) -> &str {
    let line = line.trim();
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() == line.len() {
        return line;
    }
    let numbered = rest.starts_with(['\t', ' ', '|', ':', '→', '-']);
    if numbered { rest.trim_start_matches(['\t', ' ', '|', ':', '→', '-']) } else { line }
}

/// Whether a tool's output holds `wanted` as a line. A line may itself begin with what looks like
/// a number, so it is compared both ways.
pub(crate) fn has_line(output: &str, wanted: &str) -> bool {
    output.lines().any(|line| {
        let plain = unnumbered(line);
        plain == wanted
            || line.trim() == wanted
            || line.trim_end().ends_with(&format!("\t{wanted}"))
            || ends_with_after_blank(line, wanted)
    })
}

/// `wanted` at the end of a line, after nothing but a number, separators and blanks.
fn ends_with_after_blank(line: &str, wanted: &str) -> bool {
    line.trim_end().strip_suffix(wanted).is_some_and(|before| {
        before.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || "|:→-".contains(c))
            && before.ends_with([' ', '\t', '|', ':', '→'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_are_numbered() {
        let wanted = "10:X 9:IX 5:V 1:I";
        for line in [
            "        10:X 9:IX 5:V 1:I",
            "8\t        10:X 9:IX 5:V 1:I",
            "     8\t        10:X 9:IX 5:V 1:I",
            "  8 |         10:X 9:IX 5:V 1:I",
            "8:         10:X 9:IX 5:V 1:I",
            "8→        10:X 9:IX 5:V 1:I",
            "10:X 9:IX 5:V 1:I",
        ] {
            assert!(has_line(&format!("first\n{line}\nlast"), wanted), "{line}");
        }
        assert!(!has_line("10:X 9:IX 5:V 4:IV 1:I", wanted));
        assert!(!has_line("# 10:X 9:IX 5:V 1:I", wanted));
        assert_eq!(unnumbered("  12\t    { n = NF }"), "{ n = NF }");
    }

    #[test]
    fn the_json_protocol_is_read_as_calls_and_results() {
        let messages = [
            serde_json::json!({"role": "system", "content": "rules"}),
            serde_json::json!({"role": "user", "content": "task"}),
            serde_json::json!({"role": "assistant", "content":
                "```json\n{\"reasoning\":\"\",\"action\":{\"tool\":\"read_file\",\"parameters\":{\"path\":\"a\"}}}\n```"}),
            serde_json::json!({"role": "user", "content": "1\tx"}),
        ];
        let seen = Conversation::read(&messages, &HashSet::new());
        assert_eq!(seen.exchanges.len(), 1);
        assert_eq!(seen.exchanges[0].result, "1\tx");
        assert_eq!(seen.on_file(&["read_file"], "a").count(), 1);
    }
}
