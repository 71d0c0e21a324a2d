//! Keys of one Clerk instance, and their replacement while tokens are verified.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::key::{Key, KeysError};
use crate::limits::KEYS_MAX;
use crate::refusal::Refusal;
use crate::{jwks, pem};

/// Public keys of one Clerk instance.
///
/// Keep one set for each instance: a set with keys of two instances accepts tokens of both.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JSON Web Key Set, from `https://FRONTEND_API/.well-known/jwks.json` or
    /// `https://api.clerk.com/v1/jwks`.
    ///
    /// Keys for other purposes in the set are skipped. A token's `kid` selects the key.
    ///
    /// ```
    /// use rollbook_session::{KeySet, KeysError};
    ///
    /// let maintenance = b"<html>We'll be back soon</html>";
    /// assert_eq!(KeySet::from_jwks(maintenance).unwrap_err(), KeysError::NotAJwks);
    /// ```
    ///
    /// # Errors
    /// [`KeysError`], if the document is not a JWKS, contains no usable key, or one that is damaged or private.
    pub fn from_jwks(document: &[u8]) -> Result<Self, KeysError> {
        Self::new(jwks::read(document)?)
    }

    /// Reads one or more public keys in PEM, such as `CLERK_JWT_KEY`: with line breaks, on one line, with `\n`
    /// as two characters, or a key as base64 without the lines `BEGIN` and `END`.
    ///
    /// These keys have no id, so they are tried for tokens with any `kid`.
    ///
    /// # Errors
    /// [`KeysError`], if a key is damaged, private, or not RSA.
    pub fn from_pem(text: &str) -> Result<Self, KeysError> {
        Self::new(pem::read(text)?)
    }

    /// Returns the keys of both sets, as for the time of a rotation.
    ///
    /// # Errors
    /// [`KeysError::TooMany`], or [`KeysError::SameKeyId`] if different keys have one `kid`.
    pub fn join(self, other: Self) -> Result<Self, KeysError> {
        Self::new([self.0, other.0].concat())
    }

    fn new(keys: Vec<Key>) -> Result<Self, KeysError> {
        let mut different: Vec<Key> = Vec::with_capacity(keys.len());
        for key in keys {
            if different.contains(&key) {
                continue;
            }
            if key.id().is_some() && different.iter().any(|known| known.id() == key.id()) {
                return Err(KeysError::SameKeyId);
            }
            different.push(key);
        }
        if different.len() > KEYS_MAX { Err(KeysError::TooMany(KEYS_MAX)) } else { Ok(Self(different)) }
    }

    /// Returns the ids of the keys. Keys from PEM have none.
    pub fn ids(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(Key::id)
    }

    /// Returns the number of keys: at least one.
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the `kid` of an encoded header, if it is one that Clerk gives to session tokens of these keys: such a
    /// header need not be decoded and checked for each token.
    pub(crate) fn kid_of_usual(&self, header: &str) -> Option<&str> {
        self.0.iter().find(|key| key.has_usual_header(header)).and_then(Key::id)
    }

    /// Checks the signature of a token with this `kid`.
    pub(crate) fn check(&self, kid: Option<&str>, signed: &str, signature: &[u8]) -> Result<(), Refusal> {
        let mut candidates = self.0.iter().filter(|key| key.id().is_none() || key.id() == kid).peekable();
        if candidates.peek().is_none() {
            return Err(if kid.is_some() { Refusal::KeyUnknown } else { Refusal::KeyIdMissing });
        }
        let is_genuine = candidates.any(|key| key.verifies(signed.as_bytes(), signature));
        if is_genuine { Ok(()) } else { Err(Refusal::Signature) }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_list().entries(self.ids()).finish()
    }
}

/// Keys that can be replaced while tokens are verified. Clones share the keys.
///
/// The library does not fetch keys: your code does, and passes the bytes to [`Keys::replace_from_jwks`]. If the fetch fails,
/// or the bytes are not a usable JWKS, the known keys stay.
///
/// ```
/// use rollbook_session::{KeySet, Keys};
///
/// # let jwks = include_bytes!("../tests/vectors/jwks.json");
/// let keys = Keys::new(KeySet::from_jwks(jwks)?);
/// assert!(keys.replace_from_jwks(b"502 Bad Gateway").is_err());
/// assert_eq!(keys.current().len(), 1, "an outage changes nothing");
/// assert_eq!(keys.replace_from_jwks(jwks), Ok(false), "the same keys again");
/// # Ok::<(), rollbook_session::KeysError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Keys(Arc<RwLock<Arc<KeySet>>>);

impl Keys {
    /// Begins with these keys.
    pub fn new(set: KeySet) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(set))))
    }

    /// Returns the keys that are valid now.
    pub fn current(&self) -> Arc<KeySet> {
        // A writer only assigns, so the value behind a poisoned lock is complete.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces all keys, and reports whether they differ from those before.
    pub fn replace(&self, set: KeySet) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = **current != set;
        *current = Arc::new(set);
        is_other
    }

    /// Replaces all keys by those of a JWKS, and reports whether they differ from those before.
    ///
    /// # Errors
    /// [`KeysError`]; the known keys stay valid.
    pub fn replace_from_jwks(&self, document: &[u8]) -> Result<bool, KeysError> {
        KeySet::from_jwks(document).map(|set| self.replace(set))
    }
}
