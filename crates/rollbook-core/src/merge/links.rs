//! Ids of a row's parents: registers that are never cleared, except when the content is erased.
//!
//! A newer object may lack the id of a parent, such as a membership without `public_user_data`. The newer
//! content wins, but the parent must stay known: otherwise the parent's deletion would not reach the row. The
//! id of each parent is therefore that of the newest content that names one. Like the other registers this is
//! a maximum, so the order of arrival does not matter.

use super::Content;
use crate::catalog::LINKS_MAX;
use crate::change::Version;

/// Source of the id of one parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Named {
    /// No content has named the parent.
    #[default]
    Nowhere,
    /// The current content of the row names the parent.
    InContent,
    /// The current content of the row does not name the parent. An older content did, at this version.
    Before(Version),
}

/// Sources of the ids of a row's parents, in the order of the resource's links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links(pub [Named; LINKS_MAX]);

/// Length of a hash as hexadecimal text: 16 bytes.
const HASH_DIGITS: usize = 32;

impl Links {
    /// Returns whether a parent is known only from an older content than the current one.
    pub fn any_before(&self) -> bool {
        self.0.iter().any(|named| matches!(named, Named::Before(_)))
    }

    /// Returns the links after a content that replaces the content `before`.
    pub(super) fn after_content(self, before: Content, names: [bool; LINKS_MAX]) -> Self {
        let mut links = self;
        for (named, in_content) in links.0.iter_mut().zip(names) {
            *named = match (*named, before) {
                _ if in_content => Named::InContent,
                (Named::InContent, Content::At(version)) => Named::Before(version),
                (known, _) => known,
            };
        }
        links
    }

    /// Returns the links after a content that is older than the current one, and which parents were learned from it.
    pub(super) fn after_stale(
        self,
        version: &Version,
        names: [bool; LINKS_MAX],
    ) -> (Self, [bool; LINKS_MAX]) {
        let (mut links, mut learned) = (self, [false; LINKS_MAX]);
        for ((named, learned), names) in links.0.iter_mut().zip(&mut learned).zip(names) {
            *learned = names
                && match named {
                    Named::Nowhere => true,
                    Named::InContent => false,
                    Named::Before(known) => version > known,
                };
            if *learned {
                *named = Named::Before(*version);
            }
        }
        (links, learned)
    }

    /// Returns the value of the column `version_links`, which every table with links has. `None` in the usual
    /// case, in which the content names every known parent. Otherwise one part
    /// `NUMBER:UPDATED_AT:EVENT_AT:HASH` for each other parent, separated by spaces.
    pub fn to_column(&self) -> Option<String> {
        let part = |(number, named): (usize, &Named)| match named {
            Named::Before(Version { updated_at, event_at, hash, .. }) => {
                let hash = hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
                Some(format!("{number}:{updated_at}:{event_at}:{hash}"))
            }
            _ => None,
        };
        let parts: Vec<String> = self.0.iter().enumerate().filter_map(part).collect();
        if parts.is_empty() { None } else { Some(parts.join(" ")) }
    }

    /// Parses the column `version_links`; `present` says which ids the row has. `None` if no store writes such a text.
    pub fn from_column(text: Option<&str>, present: [bool; LINKS_MAX]) -> Option<Self> {
        let mut links = Self(present.map(|is| if is { Named::InContent } else { Named::Nowhere }));
        for part in text.into_iter().flat_map(str::split_ascii_whitespace) {
            let mut fields = part.split(':');
            let mut next = || fields.next();
            let (number, updated_at, event_at, hash) = (next()?, next()?, next()?, next()?);
            let mut version = Version {
                is_deleted: false,
                updated_at: updated_at.parse().ok()?,
                event_at: event_at.parse().ok()?,
                hash: [0; 16],
            };
            if hash.len() != HASH_DIGITS || !hash.is_ascii() {
                return None;
            }
            for (index, byte) in version.hash.iter_mut().enumerate() {
                *byte = u8::from_str_radix(hash.get(2 * index..2 * index + 2)?, 16).ok()?;
            }
            *links.0.get_mut(number.parse::<usize>().ok()?)? = Named::Before(version);
        }
        Some(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(updated_at: i64) -> Version {
        Version { is_deleted: false, updated_at, event_at: updated_at, hash: [0xa7; 16] }
    }

    #[test]
    fn links_round_trip_through_their_column() {
        for (links, present) in [
            (Links([Named::Nowhere, Named::Nowhere]), [false, false]),
            (Links([Named::InContent, Named::Nowhere]), [true, false]),
            (Links([Named::InContent, Named::Before(at(-5))]), [true, true]),
            (Links([Named::Before(at(i64::MAX)), Named::Before(at(i64::MIN))]), [true, true]),
        ] {
            let text = links.to_column();
            assert_eq!(text.is_some(), links.any_before());
            assert_eq!(Links::from_column(text.as_deref(), present), Some(links));
        }
        for odd in ["x", "0:1:2", "2:1:2:a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7", "0:1:2:a7", "0:1:2:ü"] {
            assert_eq!(Links::from_column(Some(odd), [true; 2]), None, "{odd}");
        }
    }

    #[test]
    fn content_without_a_parent_keeps_the_known_parent_and_stale_content_adds_parents_by_version() {
        let named = Links([Named::InContent, Named::InContent]);
        let after = named.after_content(Content::At(at(1)), [true, false]);
        assert_eq!(after, Links([Named::InContent, Named::Before(at(1))]));
        assert_eq!(after.after_content(Content::At(at(2)), [true, true]), named);
        assert_eq!(after.after_stale(&at(0), [true, true]), (after, [false, false]));
        let (learned, which) = after.after_stale(&at(2), [true, true]);
        assert_eq!((learned.0[1], which), (Named::Before(at(2)), [false, true]));
        let (first, which) = Links::default().after_stale(&at(0), [false, true]);
        assert_eq!((first, which), (Links([Named::Nowhere, Named::Before(at(0))]), [false, true]));
    }
}
