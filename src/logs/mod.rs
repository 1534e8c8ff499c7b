//! Logging: text on a terminal, JSON lines otherwise, always to standard error, always masked.

mod redact;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

pub use redact::{MASK, Redactor};

use crate::config::{LogFormat, LogSettings};

/// Starts logging for the whole process. Called once; a level that cannot be read is an error.
pub fn init(settings: &LogSettings, redactor: &Redactor) -> anyhow::Result<()> {
    let filter = filter(&settings.level)?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let writer = redactor.writer(std::io::stderr);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_span_events(FmtSpan::NONE);
    let started = if json {
        builder.json().flatten_event(true).with_span_list(false).with_writer(writer).try_init()
    } else {
        builder.with_ansi(terminal).with_writer(writer).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Reads `log.level`: a level, or directives parted by commas.
pub fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let wrong = |why: String| {
        anyhow::anyhow!(
            "{level:?} is no level ({why}): write error, warn, info, debug or trace, or by part as in \"info,steadfast_llm=debug\""
        )
    };
    // A word alone would be taken for a part of the program: a misspelt level would silence all others.
    let lone = |part: &&str| !part.is_empty() && !part.contains(['=', '[']);
    let mut words = level.split(',').filter(lone);
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(wrong(format!("{word:?} is none")));
    }
    EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused() {
        for level in ["info", "WARN", "off", "info,steadfast_llm=debug", "warn,steadfast[run]=trace", "info,"]
        {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["inof", "loud", "info,steadfast_llm", "steadfast_llm=loud", "steadfast_llm=debug,wran"]
        {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(level) && error.contains("write error, warn"), "{error}");
        }
    }
}
