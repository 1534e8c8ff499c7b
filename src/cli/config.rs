//! `steadfast config`: check, show, docs.

use std::path::Path;

use clap::Subcommand;

use super::print;
use crate::config;
use crate::exit::Exit;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say all that is wrong, each with its line or variable; exit 1 if anything is.
    ///
    /// Example: steadfast --config /etc/steadfast.toml config check
    Check,
    /// Print the effective configuration as TOML, each value with where it comes from; secrets masked.
    Show,
    /// Print every key with its default and meaning as Markdown.
    Docs,
}

pub(super) fn run(command: &ConfigCommand, file: Option<&Path>) -> Exit {
    if matches!(command, ConfigCommand::Docs) {
        return print::all(&config::reference());
    }
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Failed;
        }
    };
    match command {
        ConfigCommand::Check => {
            let file =
                loaded.file.as_deref().map_or("defaults only".into(), |file| file.display().to_string());
            let notes: String = loaded.notes.iter().map(|note| format!("note: {note}\n")).collect();
            print::all(&format!("{notes}ok ({file})\n"))
        }
        ConfigCommand::Show => print::all(&loaded.show()),
        ConfigCommand::Docs => Exit::Done,
    }
}
