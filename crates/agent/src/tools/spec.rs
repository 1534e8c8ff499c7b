//! The tools as a table: names, parameters, descriptions, aliases; and as JSON schemas.

use serde_json::{Map, Value, json};
use steadfast_core::chat::ToolSpec;

/// One tool.
pub(super) struct Tool {
    pub name: &'static str,
    pub description: &'static str,
    pub params: &'static [Param],
}

/// One parameter.
pub(super) struct Param {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub description: &'static str,
    /// Another name that is accepted, with a factor for its unit.
    pub alias: Option<Alias>,
}

/// A parameter's other name.
pub(super) struct Alias {
    pub name: &'static str,
    /// What an integer is divided by to come to the parameter's own unit, rounded up.
    pub divisor: u64,
}

/// What a parameter holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A text; may be empty.
    Text,
    /// A text with something in it.
    Filled,
    /// A whole number of at least this.
    Integer { least: u64 },
    /// True or false.
    Flag,
}

impl Kind {
    /// In words, for an error.
    pub fn expected(self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Filled => "a string that is not empty".into(),
            Kind::Integer { least } => format!("an integer of at least {least}"),
            Kind::Flag => "true or false".into(),
        }
    }
}

const fn required(name: &'static str, kind: Kind, description: &'static str) -> Param {
    Param { name, kind, required: true, description, alias: None }
}

const fn optional(name: &'static str, kind: Kind, description: &'static str) -> Param {
    Param { name, kind, required: false, description, alias: None }
}

const fn aliased(param: Param, name: &'static str, divisor: u64) -> Param {
    Param { alias: Some(Alias { name, divisor }), ..param }
}

const FILE: Param = required("path", Kind::Filled, "Path of the file, relative to the workspace.");

/// In the order in which the model is told of them.
pub(super) const TOOLS: &[Tool] = &[
    Tool {
        name: "list_directory",
        description: "List the files and folders in a folder. Files that git ignores are left out. Long \
                      lists are cut: list a deeper folder then.",
        params: &[
            required(
                "path",
                Kind::Filled,
                "Path of the folder, relative to the workspace; \".\" is all of it.",
            ),
            optional("recursive", Kind::Flag, "List the folders inside as well. Default false."),
            optional("max_depth", Kind::Integer { least: 1 }, "How many levels, when recursive. Default 5."),
        ],
    },
    Tool {
        name: "read_file",
        description: "Read a text file, with line numbers. A file must be read before it is edited. Long \
                      files are cut: read on with start_line.",
        params: &[
            FILE,
            optional("start_line", Kind::Integer { least: 1 }, "First line to read, from 1."),
            optional("end_line", Kind::Integer { least: 1 }, "Last line to read, inclusive."),
        ],
    },
    Tool {
        name: "search_code",
        description: "Search the workspace's files for a regular expression, line by line. Files that git \
                      ignores and binary files are left out.",
        params: &[
            required("pattern", Kind::Filled, "Regular expression; case counts, (?i) in front ignores it."),
            optional("path", Kind::Filled, "Folder or file to search, relative to the workspace."),
            aliased(
                optional(
                    "glob",
                    Kind::Filled,
                    "Only files whose path or name matches, such as *.rs or src/**.",
                ),
                "filePattern",
                1,
            ),
            optional("context", Kind::Integer { least: 0 }, "Lines to show around each match, at most 20."),
        ],
    },
    Tool {
        name: "edit_file",
        description: "Replace text in a file that was read. old_string must stand in the file exactly so, \
                      line breaks and indentation included, without line numbers, and only once unless \
                      replace_all is true.",
        params: &[
            FILE,
            required("old_string", Kind::Filled, "The text to be replaced, exactly as it is in the file."),
            required("new_string", Kind::Text, "The text to stand in its place; empty removes it."),
            optional("replace_all", Kind::Flag, "Replace every occurrence. Default false."),
        ],
    },
    Tool {
        name: "write_file",
        description: "Write a whole file; folders are made as needed. To replace a file that is there, read \
                      it first. Prefer edit_file for changes.",
        params: &[FILE, required("content", Kind::Text, "All of the file's content.")],
    },
    Tool {
        name: "move_file",
        description: "Move or rename a file or folder. Nothing may be at the new place.",
        params: &[
            required("from", Kind::Filled, "Path of the file, relative to the workspace."),
            required("to", Kind::Filled, "Its new path, relative to the workspace."),
        ],
    },
    Tool { name: "delete_file", description: "Delete a file.", params: &[FILE] },
    Tool {
        name: "run_command",
        description: "Run a shell command in the workspace's root, such as a build or a test. Nobody can \
                      answer its questions, and nothing that it starts outlives it. Gives its exit code and \
                      its output, the middle of it left out when it is long.",
        params: &[
            required("command", Kind::Filled, "The command, for a shell."),
            aliased(
                optional("timeout_s", Kind::Integer { least: 1 }, "Seconds after which it is killed."),
                // The parameter's older form, in milliseconds.
                "timeout",
                1000,
            ),
        ],
    },
    Tool {
        name: "comment_on_issue",
        description: "Comment on the issue. Only for what its readers must know now: the end of the work is \
                      told by finish.",
        params: &[required("message", Kind::Filled, "The comment, in Markdown.")],
    },
    Tool {
        name: "finish",
        description: "End the work, once it is done and tested: the changes are pushed and a pull request \
                      is opened. With no changes, the summary is given as the answer.",
        params: &[required(
            "summary",
            Kind::Filled,
            "What was changed and why, and how it was tested, in Markdown; its first line becomes the title.",
        )],
    },
];

impl Tool {
    /// As the model is told of it.
    pub fn to_spec(&self) -> ToolSpec {
        let mut properties = Map::new();
        for param in self.params {
            let mut schema = match param.kind {
                Kind::Text => json!({ "type": "string" }),
                Kind::Filled => json!({ "type": "string", "minLength": 1 }),
                Kind::Integer { least } => json!({ "type": "integer", "minimum": least }),
                Kind::Flag => json!({ "type": "boolean" }),
            };
            schema["description"] = param.description.into();
            properties.insert(param.name.into(), schema);
        }
        let required: Vec<Value> =
            self.params.iter().filter(|param| param.required).map(|param| param.name.into()).collect();
        ToolSpec {
            name: self.name.into(),
            description: self.description.split_whitespace().collect::<Vec<_>>().join(" "),
            parameters: json!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            }),
        }
    }
}
