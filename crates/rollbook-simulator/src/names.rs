//! Names and metadata of invented people: plain ones, and the kinds that break naive code.

use fastrand::Rng;
use serde_json::{Value, json};

const FIRST: &[&str] = &[
    "Ines",
    "Rafael",
    "Amélie",
    "Bjørn",
    "Zoë",
    "Siân",
    "Łucja",
    "Nguyễn",
    "Σοφία",
    "Дарья",
    "美咲",
    "지우",
    "عمر",
    "נועה",
    "Anne \"Nan\"",
    "D'Arcy",
    "Max🚀",
    "👩🏽‍💻",
    "Robert'); --",
    "O\\Neil",
    "  Kim ",
    "José\u{301}",
];

const LAST: &[&str] = &[
    "Okafor",
    "Dimitrov",
    "O'Brien",
    "Müller-Lüdenscheidt",
    "van der Berg",
    "d’Artagnan",
    "Ng",
    "السيد",
    "כהן",
    "山田",
    "🏳️‍🌈 Smith",
    "Null",
    "true",
    "Ağaoğlu",
    "\"Quoted\"",
    "Tab\there",
    "<b>Bold</b>",
    "%s",
    "Æther",
];

const ORGANIZATIONS: &[&str] = &[
    "Kilnworks",
    "Ferns & Co.",
    "Studio \"Nord\"",
    "شركة النور",
    "בית קפה",
    "株式会社さくら",
    "🚀 Rockets",
    "L'Atelier",
    "Null Ltd",
    "ACME; DROP TABLE",
    "Zürich Öl",
    "A",
    "Back\\slash",
    "Line\nbreak",
];

const DOMAINS: &[&str] =
    &["kilnworks.example", "ferns.example", "nord.example", "mail.example", "xn--sakura.example"];

fn choose(rng: &mut Rng, from: &'static [&'static str]) -> &'static str {
    from[rng.usize(..from.len())]
}

/// Returns a first name, or occasionally `None`.
pub(crate) fn first(rng: &mut Rng) -> Option<String> {
    (rng.u8(..) > 12).then(|| choose(rng, FIRST).into())
}

/// Returns a last name, or occasionally `None`.
pub(crate) fn last(rng: &mut Rng) -> Option<String> {
    (rng.u8(..) > 12).then(|| choose(rng, LAST).into())
}

/// Returns a name for an organization.
pub(crate) fn organization(rng: &mut Rng) -> String {
    format!("{} {}", choose(rng, ORGANIZATIONS), rng.u32(1..10_000))
}

/// Returns an email address that is unique per `number`.
pub(crate) fn address(rng: &mut Rng, number: usize) -> String {
    format!("person-{number}@{}", choose(rng, DOMAINS))
}

/// Returns a phone number from the range reserved for fiction.
pub(crate) fn phone(rng: &mut Rng) -> String {
    format!("+447700900{:03}", rng.u32(..1000))
}

/// Returns metadata as applications store it. Null occurs too, because Clerk allows metadata to be replaced
/// by null.
pub(crate) fn metadata(rng: &mut Rng) -> Value {
    match rng.u32(..8) {
        0 => json!({}),
        1 => Value::Null,
        2 => json!({ "plan": "team", "onboarding": { "step": rng.u32(..9), "done": rng.bool() } }),
        3 => {
            json!({ "customer": format!("cus_{:08}", rng.u32(..100_000_000)), "tags": ["a", "b", "\"c\"", null] })
        }
        4 => json!({ "größe": "✓", "מפתח": ["ערך", { "emoji": "👩🏽‍💻" }], "": "empty key" }),
        5 => json!({ "number": rng.i64(..), "negative": -1, "list": [[], [[]], {}] }),
        6 => json!({ "note": format!("it's {} o'clock\n\t\"sharp\" \\ <&>", rng.u32(..24)) }),
        _ => json!({ "theme": if rng.bool() { "dark" } else { "light" } }),
    }
}
