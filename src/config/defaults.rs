//! The config.toml that is compiled in, read as a list of keys with comment, default and line.

use toml_edit::{DocumentMut, Item, Table};

/// The file at the root of the repository: every key, its default and its meaning.
pub const TEXT: &str = include_str!("../../config.toml");

/// One key of the compiled-in file.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Dotted: `llm.retry.max_attempts`.
    pub path: String,
    /// The comment lines above it, without `#`.
    pub comment: String,
    /// Its default.
    pub value: toml::Value,
    /// Its default as written in the file: `"30s"`, `5`.
    pub written: String,
}

/// A table of the compiled-in file.
#[derive(Clone, Debug)]
pub struct Section {
    /// Dotted: `llm.retry`.
    pub path: String,
    /// The comment lines above its header, without `#`.
    pub comment: String,
    /// Its keys, in the file's order.
    pub leaves: Vec<Leaf>,
}

/// The compiled-in file.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Its tables, in the file's order.
    pub sections: Vec<Section>,
    /// All of it as one value.
    pub table: toml::Table,
}

impl Defaults {
    /// Reads the compiled-in file.
    pub fn compiled_in() -> Self {
        match Self::read(TEXT) {
            Ok(defaults) => defaults,
            // Compiled in, and read by every test of this module.
            Err(error) => unreachable!("the compiled-in config.toml is not TOML: {error}"),
        }
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let document: DocumentMut = text.parse()?;
        let table = toml::from_str(text)?;
        let mut sections = Vec::new();
        collect("", document.as_table(), &table, &mut sections);
        Ok(Defaults { sections, table })
    }

    /// All keys, in the file's order.
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.sections.iter().flat_map(|section| &section.leaves)
    }

    /// One key.
    pub fn leaf(&self, path: &str) -> Option<&Leaf> {
        self.leaves().find(|leaf| leaf.path == path)
    }

    /// Whether this is a table of the file, or the beginning of one.
    pub fn is_table(&self, path: &str) -> bool {
        let below = format!("{path}.");
        self.sections.iter().any(|section| section.path == path || section.path.starts_with(&below))
    }
}

fn collect(path: &str, document: &Table, values: &toml::Table, sections: &mut Vec<Section>) {
    let position = sections.len();
    let comment = comment_of(document.decor().prefix().and_then(|raw| raw.as_str()));
    sections.push(Section { path: path.to_owned(), comment, leaves: Vec::new() });
    for (name, item) in document {
        let below = join(path, name);
        let Some(value) = values.get(name) else { continue };
        match (item, value) {
            (Item::Table(table), toml::Value::Table(values)) => collect(&below, table, values, sections),
            (Item::Value(written), value) => {
                let key = document.key(name);
                let raw = key.and_then(|key| key.leaf_decor().prefix()).and_then(|raw| raw.as_str());
                sections[position].leaves.push(Leaf {
                    path: below,
                    comment: comment_of(raw),
                    value: value.clone(),
                    written: on_one_line(&written.to_string()),
                });
            }
            (Item::None | Item::ArrayOfTables(_) | Item::Table(_), _) => {}
        }
    }
    if sections[position].leaves.is_empty() && path.is_empty() {
        sections.remove(position);
    }
}

/// A value as it is written, a list on several lines joined to one.
fn on_one_line(written: &str) -> String {
    let joined = written.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    joined.trim().replace("[ ", "[").replace(", ]", "]").replace(",]", "]")
}

/// The last block of comment lines, joined, without their `#`.
fn comment_of(raw: Option<&str>) -> String {
    let mut block: Vec<&str> = Vec::new();
    for line in raw.unwrap_or("").lines() {
        match line.trim().strip_prefix('#') {
            Some(text) => block.push(text.strip_prefix(' ').unwrap_or(text)),
            None if line.trim().is_empty() => block.clear(),
            None => {}
        }
    }
    block.join("\n")
}

/// `path.name`, or `name` at the root.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_comment() {
        let defaults = Defaults::compiled_in();
        let mut bare: Vec<&str> = Vec::new();
        bare.extend(defaults.leaves().filter(|leaf| leaf.comment.is_empty()).map(|leaf| leaf.path.as_str()));
        bare.extend(defaults.sections.iter().filter(|s| s.comment.is_empty()).map(|s| s.path.as_str()));
        assert!(bare.is_empty(), "without a comment in config.toml: {bare:?}");
    }

    #[test]
    fn a_blank_line_parts_a_comment_from_what_stands_above() {
        let text = "# about the file\n\n# meaning\n# goes on\nkey = [\n  1,\n  2,\n]\n[table] # x\n# other\nb = \"2s\"\n";
        let defaults = Defaults::read(text).unwrap();
        let leaves: Vec<_> = defaults.leaves().map(|l| (l.path.as_str(), l.comment.as_str())).collect();
        assert_eq!(leaves, [("key", "meaning\ngoes on"), ("table.b", "other")]);
        assert_eq!(defaults.leaf("table.b").unwrap().written, "\"2s\"");
        assert_eq!(defaults.leaf("key").unwrap().written, "[1, 2]");
        assert!(defaults.is_table("table") && !defaults.is_table("tab"));
    }
}
