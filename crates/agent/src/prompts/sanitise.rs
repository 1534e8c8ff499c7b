//! Strangers' text made fit for a prompt: what a person does not see on GitHub, the model does not
//! see either. And the caps that every text gets.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Compiles a constant pattern; each is compiled by a test.
#[allow(clippy::expect_used, reason = "a constant pattern that a test compiles cannot fail")]
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("constant pattern is valid")
}

/// HTML comments, closed and unclosed: GitHub hides the rest of the text after an unclosed one.
static COMMENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)<!--(?:.*?-->|.*$)"));
/// Numeric character references, which may write an invisible character visibly.
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| pattern(r"&#(?:[xX]([0-9a-fA-F]{1,6})|([0-9]{1,7}));?"));
/// Named character references of invisible characters.
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"&(?:zwnj|zwj|lrm|rlm|shy|ZeroWidthSpace|NoBreak);"));
/// Attributes whose text is not shown, anywhere within what looks like a tag.
static TAG: LazyLock<Regex> = LazyLock::new(|| pattern("<[a-zA-Z][^<>]*>"));
static ATTRIBUTE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"(?i)\s(?:alt|title|placeholder|aria-[\w-]+|data-[\w-]+)\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]+)"#)
});
/// `![alt](target)`: the alternative text is not shown.
static IMAGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"!\[[^\]]*\]([\(\[])"));
/// `[text](target "title")`: the title is not shown.
static LINK_TITLE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(\]\([^)\s]+)\s+(?:"[^"]*"|'[^']*'|\([^)]*\))\s*\)"#));
/// `[//]: # (words)`: a link definition to nowhere is how Markdown writes a comment.
static DEFINITION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^ {0,3}\[[^\]\n]+\]:[ \t]*(?:#|<>).*$"));

/// Whether a character is not seen: zero-width, bidirectional control, tag, filler or control.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
        || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// The text without invisible characters; line ends become `\n`.
pub fn strip_invisible(text: &str) -> String {
    let lines = text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}'], "\n");
    lines.chars().filter(|c| !is_invisible(*c)).collect()
}

/// The text as a person sees it on GitHub: no HTML comments, invisible characters, attributes that
/// are not shown, alternative texts and titles.
pub fn sanitise(text: &str) -> String {
    let text = strip_invisible(text);
    let text = REFERENCE.replace_all(&text, |found: &Captures<'_>| {
        let hex = found.get(1).and_then(|digits| u32::from_str_radix(digits.as_str(), 16).ok());
        let code = hex.or_else(|| found.get(2).and_then(|digits| digits.as_str().parse().ok()));
        match code.and_then(char::from_u32) {
            Some(c) if is_invisible(c) => String::new(),
            Some(_) | None => found[0].to_owned(),
        }
    });
    let text = NAMED.replace_all(&text, "");
    let text = COMMENT.replace_all(&text, "");
    // What a removal joined to a new comment was visible before: kept, and no longer a comment.
    let text = text.replace("<!--", "<! --");
    let text = TAG.replace_all(&text, |tag: &Captures<'_>| ATTRIBUTE.replace_all(&tag[0], "").into_owned());
    let text = IMAGE.replace_all(&text, "![]$1");
    let text = LINK_TITLE.replace_all(&text, "$1)");
    DEFINITION.replace_all(&text, "").trim().to_owned()
}

/// At most `max` bytes of the text, with a word on what was left out.
pub fn cap(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let kept = &text[..end];
    format!("{kept}\n[{} of {} bytes left out]", text.len() - kept.len(), text.len())
}

/// The text on one line, without invisible characters, at most `max` characters.
pub fn one_line(text: &str, max: usize) -> String {
    let words = strip_invisible(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= max {
        return words;
    }
    let kept: String = words.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_person_does_not_see_is_gone() {
        let cases = [
            ("a<!-- obey -->b", "ab"),
            ("a\n<!-- never closed\nobey", "a"),
            ("<!-<!-- x -->- obey -->", "<! -- obey -->"),
            ("a\u{200b}\u{202e}b\u{e0041}\u{feff}c\u{0}", "abc"),
            ("a&#8203;&#x200B;b&#65;&zwnj;", "ab&#65;"),
            (r#"<img src="x" alt="obey" width=3>"#, r#"<img src="x" width=3>"#),
            (r#"<a href="u" title='obey' data-x=1 aria-label="o">t</a>"#, r#"<a href="u">t</a>"#),
            ("![obey](https://e.org/x.png)", "![](https://e.org/x.png)"),
            (r#"[text](https://e.org "obey")"#, "[text](https://e.org)"),
            ("a\n[//]: # (obey)\nb", "a\n\nb"),
            ("a\r\nb\rc\u{2028}d", "a\nb\nc\nd"),
        ];
        for (text, seen) in cases {
            assert_eq!(sanitise(text), seen, "{text:?}");
        }
    }

    #[test]
    fn what_a_person_sees_stays() {
        let text = "Vec<String> fails: `x < y && y > z`\n\n```rust\nlet a = \"title=\";\n```\n1. ünïcode 日本 🎉\n\
                    see [#3](https://e.org/a(b)) and [r]: https://e.org\n\tif a[i](x) {}";
        assert_eq!(sanitise(text), text);
    }

    #[test]
    fn caps_say_what_they_left_out() {
        assert_eq!(cap("abc", 3), "abc");
        assert_eq!(cap("äöü", 3), "ä\n[4 of 6 bytes left out]");
        assert_eq!(one_line(" a\n b\u{200b}  c ", 80), "a b c");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }

    proptest! {
        #[test]
        fn nothing_hidden_survives(text in r#"(<!--|-->|<|!|--|[ a-z\n]|\u{200b}|&#8203;|<img alt="x">|[\PC]){0,40}"#) {
            let clean = sanitise(&text);
            prop_assert!(!clean.contains("<!--"), "{clean:?}");
            prop_assert!(!clean.chars().any(is_invisible), "{clean:?}");
        }
    }
}
