//! Suggestion of the name that was probably meant.

/// Minimum similarity of a suggestion, up to 1.0.
const ALIKE_MIN: f64 = 0.5;

/// Returns the most similar of `names`, if any is similar enough.
pub(crate) fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let name = name.to_ascii_lowercase();
    names
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&name, &known.to_ascii_lowercase()), known))
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name_and_nonsense_finds_none() {
        let names = || ["listen", "ops_listen", "data_dir"].map(str::to_owned);
        assert_eq!(nearest("lisen", names()).as_deref(), Some("listen"));
        assert_eq!(nearest("DATADIR", names()).as_deref(), Some("data_dir"));
        assert_eq!(nearest("zzzzzz", names()), None);
    }
}
