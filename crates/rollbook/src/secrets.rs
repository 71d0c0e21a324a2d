//! Rule for texts that look like a secret: errors, reports and paths on disk never repeat them.
//!
//! A URL counts as a secret, since it may hold a password.

/// Beginnings of Clerk's and Svix's keys.
const KEYS: [&str; 5] = ["whsec_", "whsk_", "whpk_", "sk_live_", "sk_test_"];
/// Texts before a password among other parameters: `host=h password=…`, `PGPASSWORD=…`.
const PASSWORDS: [&str; 2] = ["password=", "passwd="];
/// Text behind the scheme of a URL.
pub(crate) const URL: &str = "://";

/// Returns whether a text contains a URL, a key, a `password=` or a `user:password@host`.
pub(crate) fn looks_secret(text: &str) -> bool {
    start(text).is_some()
}

/// Returns the position in bytes of the first part that looks secret.
pub(crate) fn start(text: &str) -> Option<usize> {
    // Keeps the length, so that a position holds for both.
    let text = text.to_ascii_lowercase();
    let from_url = text.find(URL).map(|at| {
        let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        after_last(&text[..at], |c| !scheme(c))
    });
    let marks = KEYS.iter().chain(&PASSWORDS).filter_map(|mark| text.find(mark));
    from_url.into_iter().chain(marks).chain(login(&text)).min()
}

/// Returns the position of a `user:password@`.
fn login(text: &str) -> Option<usize> {
    let (before, _) = text.rsplit_once('@')?;
    let colon = before.find(':')?;
    Some(after_last(&before[..colon], |c| matches!(c, '\'' | '"' | '(' | '=') || c.is_whitespace()))
}

fn after_last(text: &str, is_end: impl Fn(char) -> bool) -> usize {
    text.char_indices().rfind(|(_, c)| is_end(*c)).map_or(0, |(at, c)| at + c.len_utf8())
}

/// Returns whether a text contains a key.
pub(crate) fn contains_key(text: &str) -> bool {
    KEYS.iter().any(|key| text.contains(key))
}

/// Returns whether a text begins with a key.
pub(crate) fn begins_with_key(text: &str) -> bool {
    KEYS.iter().any(|key| text.trim_start().starts_with(key))
}

/// Returns whether a text in place of a path is a key, a password or a login. A text that begins with a
/// folder (`/`, `./`) counts as a path, whatever its names are.
pub(crate) fn stands_for_a_path(text: &str) -> bool {
    let is_rooted = ["/", "./", "../"].iter().any(|root| text.starts_with(root));
    let lower = text.to_ascii_lowercase();
    let has_password = || PASSWORDS.iter().any(|mark| lower.contains(mark)) || login(text).is_some();
    !is_rooted && (begins_with_key(text) || has_password())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_a_key_a_password_and_a_login_look_secret() {
        for (text, at) in [
            ("postgres://u:x@h", 0),
            ("'redis://h", 1),
            ("a whsec_x", 2),
            ("sk_live_x", 0),
            ("host=h password=x", 7),
            ("PGPASSWORD=x", 2),
            ("Passwd=x", 0),
            ("u:x@h/db", 0),
            ("'u:x@h/db'", 1),
            ("postgres:/u:x@h/db", 0),
            (":x@h", 0),
            ("ü 'ö:x@h", 4),
        ] {
            assert_eq!(start(text), Some(at), "{text}");
        }
        for text in ["", "a@b.example", "127.0.0.1:80", "a@b:1", "12:30", "password", "user.created", "/a: b"]
        {
            assert!(!looks_secret(text), "{text}");
        }
    }

    #[test]
    fn a_path_that_begins_at_a_folder_never_counts_as_a_secret() {
        for text in ["whsec_x", " sk_test_x", "u:x@h/db", "host=h password=x", "postgres:/u:x@h"] {
            assert!(stands_for_a_path(text), "{text}");
            assert!(!stands_for_a_path(&format!("./{}", text.trim())), "{text}");
        }
        for text in ["data", "task_test_1/ca.pem", "/srv/a:b@c", "a@b", "rollbook-data"] {
            assert!(!stands_for_a_path(text), "{text}");
        }
    }
}
