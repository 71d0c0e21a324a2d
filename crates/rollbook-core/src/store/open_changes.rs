//! Open changes of a forward: those above its position that it has read, and that are neither delivered nor recorded. All
//! other changes up to where it read are settled.

use super::changes::Position;

/// Maximum number of positions in [`OpenChanges::open`]. A longer text is not read: its changes are sent again.
const OPEN_MAX: usize = 100_000;

/// Open changes of a forward, and the end of what it has read. Saved with the position, they keep changes that were delivered
/// above the position from being sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenChanges {
    /// Position up to which the feed was read.
    pub through: Position,
    /// Positions up to `through`, above the forward's position, that are neither delivered nor recorded; in order.
    pub open: Vec<Position>,
}

impl OpenChanges {
    /// Returns the text form: the end of the read, and the open positions as numbers and ranges, such as `90 41,50-53`.
    pub fn encode(&self) -> String {
        let mut ranges = Vec::new();
        let mut rest = self.open.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            ranges.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        format!("{} {}", self.through, ranges.join(","))
    }

    /// Reads the text form. `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (through, ranges) = text.split_once(' ')?;
        let through = through.parse().ok()?;
        let mut open: Vec<Position> = Vec::new();
        for range in ranges.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (Position, Position) = (first.parse().ok()?, last.parse().ok()?);
            let follows = open.last().is_none_or(|before| *before < first);
            let length = usize::try_from(last.checked_sub(first)?).ok()?;
            if !follows || last > through || open.len().checked_add(length)? >= OPEN_MAX {
                return None;
            }
            open.extend(first..=last);
        }
        Some(Self { through, open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_positions_are_written_as_ranges_and_read_again() {
        for (open, text) in [
            (vec![], "90 "),
            (vec![41], "90 41"),
            (vec![41, 42], "90 41-42"),
            (vec![41, 50, 51, 52, 53, 90], "90 41,50-53,90"),
        ] {
            let open_changes = OpenChanges { through: 90, open };
            assert_eq!(open_changes.encode(), text);
            assert_eq!(OpenChanges::parse(text), Some(open_changes));
        }
        let most = OpenChanges { through: Position::MAX, open: vec![Position::MAX] };
        assert_eq!(OpenChanges::parse(&most.encode()), Some(most));
    }

    #[test]
    fn a_text_that_is_damaged_or_too_long_is_not_read() {
        let longest = format!("999999 1-{OPEN_MAX}");
        assert!(OpenChanges::parse(&longest).is_some_and(|open_changes| open_changes.open.len() == OPEN_MAX));
        for text in [
            "",
            "90",
            "x 1",
            "90 x",
            "90 5-4",
            "90 5,5",
            "90 6,5",
            "90 91",
            "90 1-91",
            "90 -1",
            "999999 0-100000",
            "18446744073709551615 0-18446744073709551615",
        ] {
            assert_eq!(OpenChanges::parse(text), None, "{text}");
        }
    }
}
