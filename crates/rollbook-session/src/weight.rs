//! Weighs a token: which claims make it too long for a cookie.

use crate::credentials::SESSION_COOKIE;
use crate::json::Object;
use crate::limits::{CLAIMS_BYTES_ADVISED, COOKIE_BYTES_MAX, TOKEN_BYTES_RANGE};
use crate::refusal::Refusal;
use crate::token::Parts;

/// Claims that Clerk sets. Every other claim is a custom one.
const CLERKS: [&str; 20] = [
    "act",
    "aud",
    "azp",
    "exp",
    "fea",
    "fva",
    "iat",
    "iss",
    "jti",
    "nbf",
    "o",
    "org_id",
    "org_permissions",
    "org_role",
    "org_slug",
    "pla",
    "sid",
    "sts",
    "sub",
    "v",
];
/// Bytes that a cookie with a suffix has in addition to its token: `__session_12345678=`.
const COOKIE_NAME_BYTES: usize = SESSION_COOKIE.len() + 10;

/// Weight of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimWeight {
    /// Name of the claim.
    pub name: String,
    /// Bytes of JSON: the name, the value, and the punctuation between them. In the token each three bytes become
    /// four characters.
    pub bytes: usize,
    /// Whether you added the claim, and can remove it.
    pub is_custom: bool,
}

/// Weights of a token's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Length of the token, in bytes.
    pub token: usize,
    /// Length of the cookie with the longer of the two names, in bytes of name, `=` and value.
    pub cookie: usize,
    /// Lengths of header, claims and signature in the token, in bytes.
    pub parts: [usize; 3],
    /// Claims, the heaviest first.
    pub claims: Vec<ClaimWeight>,
}

/// Judgement of a token's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is light enough.
    Fits,
    /// The custom claims, or one claim alone, exceed 1.2 KB. These claims are the heaviest.
    Heavy(Vec<String>),
    /// The cookie exceeds 4 KB: browsers drop it, and users cannot sign in. These claims are the heaviest.
    TooLarge(Vec<String>),
}

impl Weights {
    /// Total weight of the claims that you added, in bytes of JSON.
    pub fn custom_bytes(&self) -> usize {
        self.claims.iter().filter(|claim| claim.is_custom).map(|claim| claim.bytes).sum()
    }

    /// Judges the length, and names the claims that cause it.
    pub fn verdict(&self) -> Verdict {
        let heaviest = || {
            // Claims lighter than a sixteenth of a cookie are not worth removing.
            let mut named: Vec<_> =
                self.claims.iter().filter(|claim| claim.bytes >= COOKIE_BYTES_MAX / 16).collect();
            if named.is_empty() {
                named = self.claims.iter().take(3).collect();
            }
            named.into_iter().map(|claim| claim.name.clone()).collect()
        };
        let is_heavy = self.custom_bytes() > CLAIMS_BYTES_ADVISED
            || self.claims.first().is_some_and(|claim| claim.bytes > CLAIMS_BYTES_ADVISED);
        match () {
            () if self.cookie > COOKIE_BYTES_MAX => Verdict::TooLarge(heaviest()),
            () if is_heavy => Verdict::Heavy(heaviest()),
            () => Verdict::Fits,
        }
    }
}

/// Weighs a token. Its signature is not checked, so the names of the claims may be anything.
///
/// ```
/// use rollbook_session::{Verdict, weigh};
///
/// # let token = include_str!("../tests/vectors/token.txt").trim();
/// let weights = weigh(token)?;
/// assert_eq!(weights.token, token.len());
/// assert_eq!(weights.claims[0].name, "azp", "the heaviest claim");
/// assert_eq!(weights.verdict(), Verdict::Fits);
/// # Ok::<(), rollbook_session::Refusal>(())
/// ```
///
/// # Errors
/// [`Refusal`], if the token is longer than 64 KB or its claims cannot be read.
pub fn weigh(token: &str) -> Result<Weights, Refusal> {
    let parts = Parts::split(token, *TOKEN_BYTES_RANGE.end())?;
    let json = parts.claims()?;
    let claims = Object::read(&json, Refusal::ClaimsMalformed)?;
    let weight = |(name, value): (&str, &str)| ClaimWeight {
        name: name.to_owned(),
        // Two quotation marks, a colon and a comma.
        bytes: name.len() + value.len() + 4,
        is_custom: !CLERKS.contains(&name),
    };
    let mut claims: Vec<ClaimWeight> = claims.members().map(weight).collect();
    claims.sort_by_key(|claim| std::cmp::Reverse(claim.bytes));
    Ok(Weights {
        token: token.len(),
        cookie: token.len() + COOKIE_NAME_BYTES,
        parts: parts.lengths(),
        claims,
    })
}
