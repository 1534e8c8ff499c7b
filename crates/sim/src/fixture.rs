//! The repository that the simulated GitHub hosts: small shell functions, some of them wrong, with
//! tests, and the issues that speak of them.

/// One issue of the fixture.
#[derive(Clone, Copy, Debug)]
pub struct Issue {
    /// Its number.
    pub number: u64,
    /// Its title: by it the simulated model knows what it is asked to do.
    pub title: &'static str,
    /// Its text.
    pub body: &'static str,
    /// What is there to be done.
    pub work: Work,
}

/// What solves an issue.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// One wrong line.
    Bug(Bug),
    /// Nothing is wrong: a comment says so, and no change is made.
    NothingWrong {
        /// The function that was suspected.
        function: &'static str,
    },
    /// The README lacks something.
    Document {
        /// The line after which it belongs.
        after: &'static str,
        /// The line that is lacking.
        add: &'static str,
    },
    /// A function has too few tests.
    AddTests {
        /// The function.
        function: &'static str,
        /// The name of the new test file, without folder and ending.
        name: &'static str,
        /// Its content.
        content: &'static str,
    },
}

/// One wrong line, without its indentation; it stands once in its file.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// The function; its file is `lib/{function}.sh`, its tests are `tests/{function}.sh`.
    pub function: &'static str,
    /// The line as it is.
    pub line: &'static str,
    /// The line as it should be.
    pub fixed: &'static str,
    /// A change that looks right and fails the tests.
    pub wrong: &'static str,
}

/// A file of the repository: path and content.
pub type File = (&'static str, &'static str);

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../fixture/", $path)))),*]
    };
}

static FILES: &[File] = files![
    "AGENTS.md",
    "README.md",
    "lib/csv_field.sh",
    "lib/file_ext.sh",
    "lib/join_by.sh",
    "lib/leap_year.sh",
    "lib/pad_left.sh",
    "lib/percent.sh",
    "lib/repeat.sh",
    "lib/roman.sh",
    "lib/slugify.sh",
    "lib/trim.sh",
    "lib/version_compare.sh",
    "lib/word_count.sh",
    "test.sh",
    "tests/csv_field.sh",
    "tests/file_ext.sh",
    "tests/join_by.sh",
    "tests/leap_year.sh",
    "tests/pad_left.sh",
    "tests/percent.sh",
    "tests/repeat.sh",
    "tests/roman.sh",
    "tests/slugify.sh",
    "tests/trim.sh",
    "tests/version_compare.sh",
    "tests/word_count.sh",
];

/// The repository's files at its newest commit.
pub fn files() -> &'static [File] {
    FILES
}

static ISSUES: &[Issue] = &[
    Issue {
        number: 1,
        title: "slugify leaves a dash at the end",
        body: "`slugify \"Hello, World!\"` prints `hello-world-`. I expected `hello-world`.",
        work: Work::Bug(Bug {
            function: "slugify",
            line: "sed 's/^-//'",
            fixed: "sed 's/^-//; s/-$//'",
            wrong: "sed 's/-$//'",
        }),
    },
    Issue {
        number: 2,
        title: "roman 4 prints IIII",
        body: "Numbers that end in 4 come out wrong: `roman 4` is `IIII`, `roman 14` is `XIIII`.\nNines are fine.",
        work: Work::Bug(Bug {
            function: "roman",
            line: "10:X 9:IX 5:V 1:I",
            fixed: "10:X 9:IX 5:V 4:IV 1:I",
            wrong: "10:X 9:IX 4:IV 5:V 1:I",
        }),
    },
    Issue {
        number: 3,
        title: "1900 is taken for a leap year",
        body: "Centuries are leap years only where 400 divides them.\n\n    leap_year 1900 && echo leap\n\nprints `leap`.",
        work: Work::Bug(Bug {
            function: "leap_year",
            line: "[ $(($1 % 4)) -eq 0 ]",
            fixed: "[ $(($1 % 400)) -eq 0 ] || { [ $(($1 % 4)) -eq 0 ] && [ $(($1 % 100)) -ne 0 ]; }",
            wrong: "[ $(($1 % 4)) -eq 0 ] && [ $(($1 % 100)) -ne 0 ]",
        }),
    },
    Issue {
        number: 4,
        title: "word_count sees only the last line",
        body: "With more than one line of input, only the words of the last one are counted.",
        work: Work::Bug(Bug {
            function: "word_count",
            line: "{ n = NF }",
            fixed: "{ n += NF }",
            wrong: "{ n++ }",
        }),
    },
    Issue {
        number: 5,
        title: "csv_field returns the neighbour of the field",
        body: "`printf 'a,b,c\\n' | csv_field 1` prints `b`. Fields are documented as counted from 1.",
        work: Work::Bug(Bug {
            function: "csv_field",
            line: "{ print $(n + 1) }",
            fixed: "{ print $n }",
            wrong: "{ print $(n - 1) }",
        }),
    },
    Issue {
        number: 6,
        title: "version_compare thinks that 1.10 is older than 1.9",
        body: "The parts seem to be compared as text. Also `2` and `2.0` should be equal.",
        work: Work::Bug(Bug {
            function: "version_compare",
            line: "x = a[i] \"\"; y = b[i] \"\"",
            fixed: "x = a[i] + 0; y = b[i] + 0",
            wrong: "x = length(a[i]); y = length(b[i])",
        }),
    },
    Issue {
        number: 7,
        title: "pad_left pads on the right",
        body: "`pad_left 5 ab` puts the spaces behind the text.",
        work: Work::Bug(Bug {
            function: "pad_left",
            line: "BEGIN { printf \"%-\" w \"s\\n\", s }",
            fixed: "BEGIN { printf \"%\" w \"s\\n\", s }",
            wrong: "BEGIN { printf \"%0\" w \"d\\n\", s }",
        }),
    },
    Issue {
        number: 8,
        title: "percent is nearly always 0",
        body: "`percent 1 2` prints 0 where it should print 50. Something with integer division?",
        work: Work::Bug(Bug {
            function: "percent",
            line: "printf '%d\\n' $(($1 / $2 * 100))",
            fixed: "printf '%d\\n' $(($1 * 100 / $2))",
            wrong: "printf '%d\\n' $(($2 * 100 / $1))",
        }),
    },
    Issue {
        number: 9,
        title: "repeat with a count of 0 still writes the text once",
        body: "`repeat 0 x` should write an empty line.",
        work: Work::Bug(Bug {
            function: "repeat",
            line: "do { printf \"%s\", s; n-- } while (n > 0)",
            fixed: "while (n-- > 0) { printf \"%s\", s }",
            wrong: "while (--n > 0) { printf \"%s\", s }",
        }),
    },
    Issue {
        number: 10,
        title: "file_ext should print gz for archive.tar.gz",
        body: "I think that it prints `tar.gz`, but I have not tried.",
        work: Work::NothingWrong { function: "file_ext" },
    },
    Issue {
        number: 11,
        title: "README: say how to run the tests of one function",
        body: "I had to read test.sh to find out.",
        work: Work::Document {
            after: "Run all tests with `sh test.sh`.",
            add: "Run those of one function with `sh test.sh NAME`.",
        },
    },
    Issue {
        number: 12,
        title: "join_by has no test for empty items and long separators",
        body: "Please add tests; the function itself seems right.",
        work: Work::AddTests {
            function: "join_by",
            name: "join_by_edges",
            content: ". ./lib/join_by.sh\ncheck join_by_edges \"a,,c\" \"$(join_by , a '' c)\"\ncheck join_by_edges \
                      \"a and b\" \"$(join_by ' and ' a b)\"\ncheck join_by_edges \"\" \"$(join_by ,)\"\n",
        },
    },
];

/// The fixture's issues, numbered from 1.
pub fn issues() -> &'static [Issue] {
    ISSUES
}

/// Issue `number` of a repository that has more issues than the fixture: they repeat.
/// `None` for 0.
pub fn issue(number: u64) -> Option<&'static Issue> {
    let index = number.checked_sub(1)? % ISSUES.len() as u64;
    ISSUES.get(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_line_stands_once_in_its_file() {
        for issue in issues() {
            if let Work::Bug(bug) = issue.work {
                let path = format!("lib/{}.sh", bug.function);
                let (_, content) = files().iter().find(|(name, _)| *name == path).unwrap();
                let lines = content.lines().filter(|line| line.trim() == bug.line).count();
                assert_eq!(lines, 1, "{path}: {}", bug.line);
                assert_eq!(content.matches(bug.line).count(), 1, "{path}: {}", bug.line);
            }
        }
    }

    #[test]
    fn issues_are_numbered_from_one_and_repeat() {
        for (index, issue) in issues().iter().enumerate() {
            assert_eq!(issue.number, index as u64 + 1);
        }
        assert!(issues().len() >= 10);
        assert_eq!(issue(13).unwrap().title, issues()[0].title);
        assert!(issue(0).is_none());
    }
}
