//! `search_code`: a regular expression over the workspace's text files, by ripgrep's libraries.

use std::path::{Path, PathBuf};

use cap_std::fs::OpenOptions;
use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};

use super::files::{Files, Said, Stop};

/// Most matching lines that are found.
const MATCHES: usize = 1000;
/// Most characters of a line that are shown.
const LINE: usize = 400;
/// Memory of a search: lines that are longer are not searched.
const HEAP: usize = 4 << 20;
/// Size of a compiled expression.
const COMPILED: usize = 4 << 20;

impl Files {
    /// The lines that match, by file.
    pub fn search_code(
        &self,
        pattern: &str,
        path: Option<&str>,
        glob: Option<&str>,
        context: u32,
        stop: &Stop,
    ) -> Said {
        let matcher = RegexMatcherBuilder::new()
            .size_limit(COMPILED)
            .dfa_size_limit(COMPILED)
            .line_terminator(Some(b'\n'))
            .build(pattern)
            .map_err(|error| {
                format!(
                    "pattern is not a regular expression that can be searched for: {error}. Put a \\ before \
                         a character that is meant as itself."
                )
            })?;
        let glob = glob.map(Glob::new).transpose()?;
        let start = self.resolve(path.unwrap_or("."))?;
        let mut searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(HEAP))
            .before_context(context as usize)
            .after_context(context as usize)
            .build();
        let mut found = Found { context, ..Found::default() };
        let is_file = path.is_some() && self.dir.metadata(&start).is_ok_and(|metadata| metadata.is_file());
        if is_file {
            self.search_file(&mut searcher, &matcher, &start, &mut found);
        } else {
            for (path, entry) in self.walk(&start, None, true) {
                if stop.is_set() || found.matches >= MATCHES {
                    break;
                }
                let wanted = glob.as_ref().is_none_or(|glob| glob.matches(&path));
                if wanted && entry.file_type().is_some_and(|kind| kind.is_file()) {
                    self.search_file(&mut searcher, &matcher, &path, &mut found);
                }
            }
        }
        Ok(found.report(pattern, self.cap))
    }

    fn search_file(&self, searcher: &mut Searcher, matcher: &RegexMatcher, path: &Path, found: &mut Found) {
        // Opened beneath the root like every file; one that cannot be opened or is too large is
        // counted and not searched.
        let Ok(file) = self.open_file(path, OpenOptions::new().read(true)) else {
            found.skipped += 1;
            return;
        };
        found.begin(path);
        if searcher.search_file(matcher, &file.into_std(), &mut *found).is_err() {
            found.skipped += 1;
        }
        found.end();
    }
}

/// A glob that has a `/` is held against the path, else against the name.
struct Glob {
    matcher: GlobMatcher,
    on_path: bool,
}

impl Glob {
    fn new(glob: &str) -> Result<Glob, String> {
        let on_path = glob.contains('/');
        let trimmed = glob.strip_prefix("./").or_else(|| glob.strip_prefix('/')).unwrap_or(glob);
        let built = GlobBuilder::new(trimmed).literal_separator(true).build();
        let built = built.map_err(|error| format!("glob {glob:?} cannot be used: {error}."))?;
        Ok(Glob { matcher: built.compile_matcher(), on_path })
    }

    fn matches(&self, path: &Path) -> bool {
        if self.on_path {
            self.matcher.is_match(path)
        } else {
            path.file_name().is_some_and(|name| self.matcher.is_match(name))
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    context: u32,
    matches: usize,
    skipped: usize,
    files: Vec<(PathBuf, usize, String)>,
    current: Option<(PathBuf, usize, String)>,
}

impl Found {
    fn begin(&mut self, path: &Path) {
        self.current = Some((path.to_owned(), 0, String::new()));
    }

    fn end(&mut self) {
        self.files.extend(self.current.take().filter(|(_, matches, _)| *matches > 0));
    }

    fn line(&mut self, number: Option<u64>, mark: char, line: &[u8], is_match: bool) {
        let Some((_, matches, lines)) = &mut self.current else { return };
        *matches += usize::from(is_match);
        self.matches += usize::from(is_match);
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        let cut = line.char_indices().nth(LINE).map_or(line.len(), |(cut, _)| cut);
        let more = if cut < line.len() { " [... line cut]" } else { "" };
        lines.push_str(&format!("{:>6}{mark} {}{more}\n", number.unwrap_or_default(), &line[..cut]));
    }

    /// Files and counts first, then the lines as far as there is room.
    fn report(self, pattern: &str, cap: usize) -> String {
        let skipped = match self.skipped {
            0 => String::new(),
            count => format!("[{count} files could not be searched]\n"),
        };
        if self.files.is_empty() {
            return format!("No line matches {pattern:?}.\n{skipped}");
        }
        let at_least = if self.matches >= MATCHES { "at least " } else { "" };
        let mut output =
            format!("{at_least}{} matching lines in {} files\n{skipped}", self.matches, self.files.len());
        for (position, (path, matches, lines)) in self.files.iter().enumerate() {
            let whole = format!("{}: {matches}\n{lines}", path.display());
            if output.len() + whole.len() <= cap.saturating_sub(200) {
                output.push_str(&whole);
                continue;
            }
            output.push_str("[the lines of these files are left out: narrow path, glob or pattern]\n");
            for (path, matches, _) in &self.files[position..] {
                let only = format!("{}: {matches}\n", path.display());
                if output.len() + only.len() > cap {
                    output.push_str("[...]\n");
                    break;
                }
                output.push_str(&only);
            }
            break;
        }
        output
    }
}

impl Sink for Found {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        self.line(found.line_number(), ':', found.bytes(), true);
        Ok(self.matches < MATCHES)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, Self::Error> {
        self.line(context.line_number(), '-', context.bytes(), false);
        Ok(true)
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, Self::Error> {
        if let Some((_, _, lines)) = self.current.as_mut().filter(|_| self.context > 0) {
            lines.push_str("     --\n");
        }
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> Result<bool, Self::Error> {
        // What was found before the first NUL is of no use either.
        if let Some((_, matches, _)) = self.current.take() {
            self.matches -= matches;
        }
        Ok(false)
    }
}
