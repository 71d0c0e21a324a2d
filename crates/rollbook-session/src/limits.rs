//! Limits on everything that comes from outside.

/// Default maximum length of a token, in bytes. A cookie holds 4 KB; a token in `Authorization` may be longer.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Smallest and greatest limit on tokens that a policy can set, in bytes.
pub const TOKEN_BYTES_RANGE: std::ops::RangeInclusive<usize> = 1024..=64 * 1024;
/// Maximum length of a token's header, in bytes of JSON.
pub const HEADER_BYTES_MAX: usize = 1024;
/// Maximum length of a signature, in bytes: a key of 8192 bits.
pub const SIGNATURE_BYTES_MAX: usize = 1024;
/// Maximum number of members of one object in a token.
pub const CLAIMS_MAX: usize = 128;
/// Maximum nesting depth of claims. The claims themselves are at depth 1.
pub const NESTING_MAX: usize = 16;
/// Maximum length of an id, a role or another name in a claim, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Maximum number of names of permissions (`per`), and of bits of a mask that are read.
pub const PERMISSION_NAMES_MAX: usize = 1024;
/// Maximum number of digits of a permission mask: 2^1024 has 309.
pub const MASK_DIGITS_MAX: usize = 310;
/// Maximum number of features, of plans, and of permissions that a token grants.
pub const GRANTS_MAX: usize = 4096;
/// Maximum number of keys in a set.
pub const KEYS_MAX: usize = 16;
/// Maximum length of a JWKS or PEM document, in bytes.
pub const KEY_DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of session cookies in a request that are tried.
pub const SESSION_COOKIES_MAX: usize = 8;
/// Maximum number of authorized parties, and of audiences, of a policy.
pub const PARTIES_MAX: usize = 256;
/// Maximum clock skew of a policy, in seconds: the lifetime of a session token.
pub const SKEW_SECONDS_MAX: u64 = 60;
/// Maximum length of a cookie in browsers, in bytes of name, `=` and value.
pub const COOKIE_BYTES_MAX: usize = 4096;
/// Weight of claims that Clerk advises not to exceed, in bytes.
pub const CLAIMS_BYTES_ADVISED: usize = 1200;
