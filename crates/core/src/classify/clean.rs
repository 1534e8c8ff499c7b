//! Makes a provider's or a program's words fit for errors and logs: short, one line, no secrets.

/// Most characters of a message kept in a failure.
pub const MAX_MESSAGE: usize = 500;

/// Most bytes of a text that are looked at; what lies behind cannot reach the message.
const MAX_INPUT: usize = 64 * 1024;

/// How credentials begin, by the word of those who issue them: GitHub's tokens, JSON web tokens,
/// keys of OpenAI and its kin.
const SECRET_PREFIXES: [&str; 8] = ["github_pat_", "ghs_", "ghp_", "gho_", "ghu_", "ghr_", "eyJ", "sk-"];

/// Fewest characters after a prefix that make it a credential and not a word like `sk-learn`.
const MIN_SECRET: usize = 12;

/// What stands in a credential's place.
const MASK: &str = "***";

/// One line of at most [`MAX_MESSAGE`] characters: control characters become spaces, user
/// information in URLs and anything that looks like a credential becomes `***`.
pub fn clean(text: &str) -> String {
    let text = head(text, MAX_INPUT);
    let mut words = Vec::new();
    let mut after_scheme = false;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let is_scheme = ["bearer", "basic", "token"].contains(&word.to_ascii_lowercase().as_str());
        if after_scheme && looks_random(word) {
            words.push(MASK.to_owned());
        } else {
            words.push(mask_prefixed(&mask_user_info(word)));
        }
        after_scheme = is_scheme;
    }
    cap(&words.join(" "), MAX_MESSAGE)
}

/// At most `max` characters, the last of them an ellipsis where something was cut.
pub fn cap(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// At most `max` bytes, cut between characters.
fn head(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What follows `Bearer` or `token` is a secret if it is long and no plain word.
fn looks_random(word: &str) -> bool {
    word.len() >= MIN_SECRET && word.bytes().any(|b| b.is_ascii_digit() || b == b'_' || b == b'=')
}

/// `https://user:pass@host/` becomes `https://***@host/`.
fn mask_user_info(word: &str) -> String {
    let mut done = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        done.push_str(before);
        let authority_len = after.find(['/', '?', '#', '\'', '"']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(authority_len);
        match authority.rfind('@') {
            Some(sign) => {
                done.push_str(MASK);
                done.push_str(&authority[sign..]);
            }
            None => done.push_str(authority),
        }
        rest = tail;
    }
    done.push_str(rest);
    done
}

/// `ghs_abc...` becomes `ghs_***`, wherever in the word it begins.
fn mask_prefixed(word: &str) -> String {
    let mut done = String::with_capacity(word.len());
    let mut rest = word;
    loop {
        let found =
            SECRET_PREFIXES.iter().filter_map(|prefix| rest.find(prefix).map(|at| (at, prefix.len()))).min();
        let Some((at, prefix_len)) = found else {
            done.push_str(rest);
            return done;
        };
        let (kept, after) = rest.split_at(at + prefix_len);
        done.push_str(kept);
        let in_secret = |c: char| c.is_ascii_alphanumeric() || "_-.=+/~".contains(c);
        let secret_len = after.find(|c| !in_secret(c)).unwrap_or(after.len());
        let (secret, tail) = after.split_at(secret_len);
        done.push_str(if secret.len() >= MIN_SECRET { MASK } else { secret });
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_masked_wherever_they_stand() {
        for (text, expected) in [
            ("fatal: https://x-access-token:abc@github.com/o/r/", "fatal: https://***@github.com/o/r/"),
            ("to 'https://tok@host:8443/o/r.git'", "to 'https://***@host:8443/o/r.git'"),
            ("https://a@b@c/x and http://d:e@f?q", "https://***@c/x and http://***@f?q"),
            ("bad one ghs_0123456789abcdefABCDEF", "bad one ghs_***"),
            ("authorization: token 0123456789abcdef0123", "authorization: token ***"),
            ("\"ghp_0123456789abcdef\",x", "\"ghp_***\",x"),
            ("github_pat_11AAAAAAA0_zzzzzzzzzzzz is revoked", "github_pat_*** is revoked"),
            ("ghs_123_eyJhbGciOi.eyJpc3MiOi.c2ln-bmF0_dXJl!", "ghs_***!"),
            ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
            ("jwt eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxIn0.sig", "jwt eyJ***"),
            ("key sk-proj-0123456789abcdef given", "key sk-*** given"),
        ] {
            assert_eq!(clean(text), expected, "{text}");
        }
    }

    #[test]
    fn plain_words_stay() {
        for text in [
            "see https://docs.github.com/rest#limits",
            "the token permissions are missing",
            "install sk-learn",
            "mail me@example.org",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn one_line_and_capped() {
        assert_eq!(clean("a\r\n\tb\u{1b}[31m c\0"), "a b [31m c");
        let long = clean(&"é".repeat(70_000));
        assert_eq!(long.chars().count(), MAX_MESSAGE);
        assert!(long.ends_with('…'));
    }

    proptest! {
        #[test]
        fn no_text_escapes_the_rules(text in ".{0,800}", secret in "[A-Za-z0-9]{12,40}") {
            let whole = clean(&format!("{text} ghs_{secret} https://u:{secret}@h/"));
            prop_assert!(whole.chars().count() <= MAX_MESSAGE);
            prop_assert!(!whole.contains(char::is_control));
            let leaks = [format!("ghs_{secret}"), format!("u:{secret}")];
            prop_assert!(!leaks.iter().any(|leak| whole.contains(leak)));
        }
    }
}
