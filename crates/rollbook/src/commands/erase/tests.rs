//! Text of an erasure.

use super::*;

#[test]
fn only_a_yes_confirms() {
    for (answer, is_yes) in [("yes\n", true), (" yes \r\n", true), ("y\n", false), ("\n", false), ("", false)]
    {
        assert_eq!(agreed(&mut answer.as_bytes()), is_yes, "{answer:?}");
    }
}
