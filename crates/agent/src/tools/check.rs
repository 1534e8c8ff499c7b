//! From a call as the model wrote it to a [`Checked`] one, or to an error that helps the model.

use std::time::Duration;

use serde_json::{Map, Value};
use steadfast_core::chat::ToolCall;

use super::Checked;
use super::spec::{Kind, Param, TOOLS, Tool};

/// Below this likeness (Jaro-Winkler, 0 to 1) a name is not offered as the one that was meant.
const ALIKE: f64 = 0.7;
/// Most characters of the model's own words that an error repeats.
const QUOTE: usize = 80;

pub(super) fn check(call: &ToolCall) -> Result<Checked, String> {
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == call.name) else {
        return Err(unknown_tool(&call.name));
    };
    let arguments = parse(tool, &call.arguments)?;
    Args::new(tool, arguments)?.into_checked(tool)
}

fn unknown_tool(name: &str) -> String {
    let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    let meant = closest(name, &names).map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
    format!("There is no tool {:?}.{meant} The tools are: {}.", quote(name), names.join(", "))
}

fn parse(tool: &Tool, arguments: &str) -> Result<Map<String, Value>, String> {
    // Some servers send nothing where the model gave no arguments.
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(format!(
            "The arguments of {} must be a JSON object, not {}. {}",
            tool.name,
            kind_of(&other),
            usage(tool)
        )),
        Err(error) if error.is_eof() => Err(format!(
            "The arguments of {} end too early to be JSON: they were probably cut off because the answer \
             was too long. Nothing was done. Call it again with less in one call, such as a smaller edit. {}",
            tool.name,
            usage(tool)
        )),
        Err(error) => Err(format!(
            "The arguments of {} are not valid JSON ({error}). Nothing was done. {}",
            tool.name,
            usage(tool)
        )),
    }
}

/// `edit_file takes path (string), ... and optionally ...`
fn usage(tool: &Tool) -> String {
    let list = |wanted: bool| {
        let of = |param: &Param| format!("{} ({})", param.name, param.kind.expected());
        tool.params.iter().filter(|param| param.required == wanted).map(of).collect::<Vec<_>>().join(", ")
    };
    match list(false) {
        optional if optional.is_empty() => format!("{} takes {}.", tool.name, list(true)),
        optional => format!("{} takes {}, and optionally {optional}.", tool.name, list(true)),
    }
}

/// Arguments whose names and types fit the tool.
struct Args(Map<String, Value>);

impl Args {
    fn new(tool: &Tool, arguments: Map<String, Value>) -> Result<Args, String> {
        let mut fitting = Map::new();
        for (name, value) in arguments {
            let named = |param: &&Param| {
                param.name == name || param.alias.as_ref().is_some_and(|alias| alias.name == name)
            };
            let Some(param) = tool.params.iter().find(named) else {
                let names: Vec<&str> = tool.params.iter().map(|param| param.name).collect();
                let meant =
                    closest(&name, &names).map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
                return Err(format!(
                    "{} has no parameter {:?}.{meant} {}",
                    tool.name,
                    quote(&name),
                    usage(tool)
                ));
            };
            // Models write null for "not given".
            if value.is_null() && !param.required {
                continue;
            }
            let divisor =
                param.alias.as_ref().filter(|alias| alias.name == name).map_or(1, |alias| alias.divisor);
            let value = fit(param, &value, divisor).ok_or_else(|| {
                let expected = param.kind.expected();
                format!("{}: {name} must be {expected}, not {}.", tool.name, describe(&value))
            })?;
            if fitting.insert(param.name.into(), value).is_some() {
                return Err(format!("{}: {} was given twice.", tool.name, param.name));
            }
        }
        for param in tool.params.iter().filter(|param| param.required) {
            if !fitting.contains_key(param.name) {
                return Err(format!("{}: {} is missing. {}", tool.name, param.name, usage(tool)));
            }
        }
        Ok(Args(fitting))
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn needed(&mut self, tool: &Tool, name: &str) -> Result<String, String> {
        self.text(name).ok_or_else(|| format!("{}: {name} is missing. {}", tool.name, usage(tool)))
    }

    fn number(&self, name: &str) -> Option<u32> {
        let number = self.0.get(name).and_then(Value::as_u64)?;
        Some(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn into_checked(mut self, tool: &Tool) -> Result<Checked, String> {
        Ok(match tool.name {
            "list_directory" => Checked::ListDirectory {
                path: self.needed(tool, "path")?,
                recursive: self.flag("recursive"),
                max_depth: self.number("max_depth"),
            },
            "read_file" => {
                let (start_line, end_line) = (self.number("start_line"), self.number("end_line"));
                if let (Some(start), Some(end)) = (start_line, end_line)
                    && start > end
                {
                    return Err(format!("read_file: start_line ({start}) is after end_line ({end})."));
                }
                Checked::ReadFile { path: self.needed(tool, "path")?, start_line, end_line }
            }
            "search_code" => Checked::SearchCode {
                pattern: self.needed(tool, "pattern")?,
                path: self.text("path"),
                glob: self.text("glob"),
                context: self.number("context").unwrap_or(0).min(20),
            },
            "edit_file" => {
                let (old_string, new_string) =
                    (self.needed(tool, "old_string")?, self.needed(tool, "new_string")?);
                if old_string == new_string {
                    return Err("edit_file: old_string and new_string are the same: nothing to do.".into());
                }
                Checked::EditFile {
                    path: self.needed(tool, "path")?,
                    old_string,
                    new_string,
                    replace_all: self.flag("replace_all"),
                }
            }
            "write_file" => Checked::WriteFile {
                path: self.needed(tool, "path")?,
                content: self.needed(tool, "content")?,
            },
            "move_file" => {
                Checked::MoveFile { from: self.needed(tool, "from")?, to: self.needed(tool, "to")? }
            }
            "delete_file" => Checked::DeleteFile { path: self.needed(tool, "path")? },
            "run_command" => Checked::RunCommand {
                command: self.needed(tool, "command")?,
                timeout: self.number("timeout_s").map(|seconds| Duration::from_secs(seconds.into())),
            },
            "comment_on_issue" => Checked::CommentOnIssue { message: self.needed(tool, "message")? },
            "finish" => Checked::Finish { summary: self.needed(tool, "summary")? },
            other => return Err(unknown_tool(other)),
        })
    }
}

/// The value in the parameter's own unit, if it is of the parameter's kind.
fn fit(param: &Param, value: &Value, divisor: u64) -> Option<Value> {
    match param.kind {
        Kind::Text => value.is_string().then(|| value.clone()),
        Kind::Filled => value.as_str().filter(|text| !text.trim().is_empty()).map(|_| value.clone()),
        Kind::Flag => value.is_boolean().then(|| value.clone()),
        Kind::Integer { least } => {
            // 5.0 is how some models write 5.
            let whole = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
            let number = value.as_u64().or_else(|| value.as_f64().and_then(whole))?;
            let number = number.div_ceil(divisor);
            (number >= least).then(|| number.into())
        }
    }
}

fn closest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(QUOTE).flat_map(char::to_lowercase).collect();
    let likeness = |candidate: &str| strsim::jaro_winkler(&name, candidate);
    let near = names.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(near) >= ALIKE).then_some(near)
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn describe(value: &Value) -> String {
    format!("{} ({})", kind_of(value), quote(&value.to_string()))
}
