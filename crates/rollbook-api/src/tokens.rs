//! Bearer tokens of the applications that may read.
//!
//! Constraints:
//!
//! * A token is kept as its SHA-256 digest, and is never logged or repeated in an error.
//! * The digest of a presented token is compared with those of all tokens, each in constant time: the time of the
//!   answer does not depend on which token matched, or on how much of it did.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Minimum length of a token, in characters: 128 bits in hexadecimal.
pub const TOKEN_LENGTH_MIN: usize = 32;
/// Maximum length of a token, in characters.
pub const TOKEN_LENGTH_MAX: usize = 512;
/// Maximum number of tokens.
pub const TOKENS_MAX: usize = 32;

/// Tokens that are valid now. Several are valid at once, so that a token can be replaced without a gap.
#[derive(Clone)]
pub struct Tokens(Vec<[u8; 32]>);

/// A token that a client presented. It can be looked up again after the tokens were replaced.
#[derive(Clone, Copy)]
pub(crate) struct TokenDigest([u8; 32]);

/// Reason why a text is not a list of tokens. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// The text contains no token.
    #[error("contains no token")]
    Empty,
    /// A token is too short or too long.
    #[error("token {0} has {1} characters; it must have {TOKEN_LENGTH_MIN} to {TOKEN_LENGTH_MAX}")]
    Length(usize, usize),
    /// A token has a character that the header `Authorization` can't carry.
    #[error("token {0} has a character that is not a letter, a digit or one of - . _ ~ + / =")]
    Character(usize),
    /// One token occurs twice.
    #[error("token {0} is repeated")]
    Repeated(usize),
    /// There are more than [`TOKENS_MAX`] tokens.
    #[error("there are more than {TOKENS_MAX} tokens")]
    TooMany,
}

impl Tokens {
    /// Parses one or more tokens, separated by commas or white space.
    ///
    /// # Errors
    /// [`TokensError`] with the position of the invalid token, counted from one.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let is_separator = |c: char| c == ',' || c.is_whitespace();
        let mut known = BTreeSet::new();
        let mut digests = Vec::new();
        for (index, token) in text.split(is_separator).filter(|token| !token.is_empty()).enumerate() {
            let position = index + 1;
            if position > TOKENS_MAX {
                return Err(TokensError::TooMany);
            }
            if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
                return Err(TokensError::Character(position));
            }
            if !(TOKEN_LENGTH_MIN..=TOKEN_LENGTH_MAX).contains(&token.len()) {
                return Err(TokensError::Length(position, token.len()));
            }
            if !known.insert(token) {
                return Err(TokensError::Repeated(position));
            }
            digests.push(digest(token.as_bytes()));
        }
        if digests.is_empty() { Err(TokensError::Empty) } else { Ok(Self(digests)) }
    }

    /// Returns the number of tokens.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the value of a header `Authorization` has one of these tokens.
    pub fn admit(&self, header: &[u8]) -> bool {
        self.find(header).is_some()
    }

    /// Returns the token in the value of a header `Authorization`; `None` if it is none of these.
    pub(crate) fn find(&self, header: &[u8]) -> Option<TokenDigest> {
        let (scheme, token) = header.split_at_checked(b"bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let presented = TokenDigest(digest(token.trim_ascii()));
        self.contain(presented).then_some(presented)
    }

    /// Whether a token is one of these.
    pub(crate) fn contain(&self, presented: TokenDigest) -> bool {
        let any = self.0.iter().fold(Choice::from(0), |any, known| any | known.ct_eq(&presented.0));
        any.into()
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(c: char, length: usize) -> String {
        c.to_string().repeat(length)
    }

    #[test]
    fn each_of_several_tokens_is_accepted_and_nothing_else() {
        let (one, other) = (token('a', TOKEN_LENGTH_MIN), token('b', TOKEN_LENGTH_MAX));
        for separator in [",", " ", "\n", ", \r\n "] {
            let tokens = Tokens::parse(&format!("{one}{separator}{other}\n")).expect("two tokens");
            for good in [format!("Bearer {one}"), format!("bearer {other}"), format!("BEARER  {one}")] {
                assert!(tokens.find(good.as_bytes()).is_some(), "{good}");
            }
            for bad in [
                String::new(),
                "Bearer".to_owned(),
                "Bearer ".to_owned(),
                one.clone(),
                format!("Basic {one}"),
                format!("Bearer {one}{separator}{other}"),
                format!("Bearer {}", &one[1..]),
                format!("Bearer {one}a"),
            ] {
                assert!(tokens.find(bad.as_bytes()).is_none(), "{bad}");
            }
        }
    }

    #[test]
    fn a_list_of_tokens_is_refused_with_the_position_and_never_quoted() {
        let good = token('a', TOKEN_LENGTH_MIN);
        let many = (0..=TOKENS_MAX).map(|number| format!("{good}{number}")).collect::<Vec<_>>();
        for (text, error) in [
            (" ,\n".to_owned(), TokensError::Empty),
            (token('a', TOKEN_LENGTH_MIN - 1), TokensError::Length(1, TOKEN_LENGTH_MIN - 1)),
            (token('a', TOKEN_LENGTH_MAX + 1), TokensError::Length(1, TOKEN_LENGTH_MAX + 1)),
            (format!("{good},{good}"), TokensError::Repeated(2)),
            (format!("{good},{}ü", token('b', TOKEN_LENGTH_MIN)), TokensError::Character(2)),
            (many.join(" "), TokensError::TooMany),
        ] {
            let refused = Tokens::parse(&text).expect_err("it is refused");
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains("aaaa"), "{refused}");
        }
        assert!(Tokens::parse(&many[1..].join(" ")).is_ok(), "the limit itself is allowed");
        assert_eq!(format!("{:?}", Tokens::parse(&good).expect("a token")), "Tokens(1)");
    }
}
