//! Texts of effects: within GitHub's caps, and with a marker by which they are found again.

/// Most characters of a comment's or pull request's text (GitHub's own limit).
pub const MAX_TEXT: usize = 65_536;

/// Most characters of a pull request's title (GitHub's own limit).
pub const MAX_TITLE: usize = 256;

const CUT: &str = "\n\n… (cut)";

/// How every marker begins; text of others must not.
const MARKER_BEGIN: &str = "<!-- steadfast";

/// `text` and, at its end, `marker`; within [`MAX_TEXT`], with the marker whole. A marker that
/// `text` brings itself, written by the model or a stranger, is made visible and so no marker.
pub fn with_marker(text: &str, marker: &str) -> String {
    let text = text.replace(MARKER_BEGIN, "<!- - steadfast");
    let room = MAX_TEXT.saturating_sub(marker.chars().count() + 2);
    format!("{}\n\n{marker}", cut(text.trim_end(), room))
}

/// At most [`MAX_TEXT`] characters; a marker at the end stays.
pub(crate) fn cap_text(text: &str) -> String {
    if text.chars().count() <= MAX_TEXT {
        return text.to_owned();
    }
    match text.rfind(MARKER_BEGIN) {
        Some(at) if text[at..].trim_end().ends_with("-->") && text[at..].chars().count() < MAX_TEXT / 2 => {
            let marker = text[at..].trim_end();
            let room = MAX_TEXT.saturating_sub(marker.chars().count() + 2);
            format!("{}\n\n{marker}", cut(text[..at].trim_end(), room))
        }
        Some(_) | None => cut(text, MAX_TEXT),
    }
}

/// One line of at most [`MAX_TITLE`] characters.
pub(crate) fn cap_title(title: &str) -> String {
    let line: Vec<&str> = title.split_whitespace().collect();
    steadfast_core::classify::clean::cap(&line.join(" "), MAX_TITLE)
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(CUT.chars().count())).collect();
    format!("{}{CUT}", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "<!-- steadfast job=a effect=progress -->";

    #[test]
    fn the_marker_survives_any_length() {
        for length in [0, 10, MAX_TEXT - 10, MAX_TEXT, MAX_TEXT + 1, 3 * MAX_TEXT] {
            let text = with_marker(&"é".repeat(length), MARKER);
            assert!(text.ends_with(MARKER), "{length}");
            assert!(text.chars().count() <= MAX_TEXT, "{length}");
            let capped = cap_text(&format!("{}\n\n{MARKER}", "é".repeat(length)));
            assert!(capped.ends_with(MARKER), "{length}");
            assert!(capped.chars().count() <= MAX_TEXT, "{length}");
        }
        assert_eq!(cap_text(&"x".repeat(MAX_TEXT + 1)).chars().count(), MAX_TEXT);
    }

    #[test]
    fn a_forged_marker_is_none() {
        let text = with_marker("see <!-- steadfast job=b effect=progress -->", MARKER);
        assert_eq!(text.matches("<!-- steadfast").count(), 1);
    }

    #[test]
    fn a_title_is_one_short_line() {
        assert_eq!(cap_title("fix\n the\tthing "), "fix the thing");
        assert_eq!(cap_title(&"x".repeat(300)).chars().count(), MAX_TITLE);
    }
}
