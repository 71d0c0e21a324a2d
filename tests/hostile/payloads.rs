//! Bodies that may make a parser or an engine fail, and the expected result of each.

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::retry::Reason::{self, InvalidJson, MissingId, NotAnEvent, TooDeep};
use serde_json::{Value, json};

use super::numbers::{event_times, integers, numbers, times};
use super::stage::Case;

/// Clerk's time of every event here, unless the case is about the time.
pub(super) const AT: &str = "1785312000032";

/// Maximum nesting of a body, and the depth of metadata in an event.
const DEPTH_MAX: usize = 127;
const DEPTH_OF_METADATA: usize = 2;

/// Default limit of the receiver on a body.
const BODY_MAX: usize = 1024 * 1024;

pub(super) fn slug(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

pub(super) fn event(data: &str) -> String {
    format!(r#"{{"type":"user.updated","timestamp":{AT},"data":{data}}}"#)
}

/// A user with the id and these members, as JSON.
pub(super) fn user(name: &str, members: &str) -> Case {
    let id = format!("user_{}", slug(name));
    Case::row(name, event(&format!(r#"{{"id":"{id}",{members}}}"#)), &USERS, id)
}

/// A user with this name, as JSON, and the stored form of the name.
fn named(name: &str, sent: &str, kept: &str) -> Case {
    user(name, &format!(r#""first_name":{sent}"#)).with("first_name", json!(kept))
}

/// A user with these metadata, as JSON.
pub(super) fn metadata(name: &str, json: &str) -> Case {
    let kept = serde_json::from_str(json).expect("JSON");
    user(name, &format!(r#""public_metadata":{json}"#)).with("public_metadata", kept)
}

pub(super) fn parked(name: &str, body: impl Into<bytes::Bytes>, reason: Reason) -> Case {
    Case::parked(name, body, reason, Some("user.updated"))
}

fn no_json(name: &str, body: impl Into<bytes::Bytes>) -> Case {
    Case::parked(name, body, InvalidJson, None)
}

/// Cases with the same result on all engines.
pub(super) fn everywhere() -> impl Iterator<Item = Case> {
    let all = [
        replaced(),
        private_keys(),
        no_text(),
        whole_bodies(),
        numbers(),
        integers(),
        times(),
        event_times(),
        depths(),
        sizes(),
        twice(),
        names(),
    ];
    all.into_iter().flatten()
}

/// NULs and lone surrogates in every text.
fn replaced() -> Vec<Case> {
    let text = |name: &str, sent: &str, kept: &str, count| named(name, sent, kept).sanitized(count);
    let odd_id = |name: &str, sent: &str, kept: &str| {
        Case::row(name, event(&format!(r#"{{"id":"{sent}"}}"#)), &USERS, kept).sanitized(1)
    };
    vec![
        text("a NUL", r#""a\u0000b""#, "a\u{fffd}b", 1),
        text("only NULs", r#""\u0000\u0000""#, "\u{fffd}\u{fffd}", 2),
        text("the first half", r#""\ud83d""#, "\u{fffd}", 1),
        text("the second half", r#""\uDE00x""#, "\u{fffd}x", 1),
        text("halves in the wrong order", r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}", 2),
        text("two first halves and a second", r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}", 1),
        text("a first half and no second", r#""\ud83d\u0041""#, "\u{fffd}A", 1),
        text("a whole pair", r#""\ud83d\ude00""#, "\u{1f600}", 0),
        text("a NUL's spelling", r#""\\u0000\\\\u0000""#, r"\u0000\\u0000", 0),
        text("noncharacters", r#""\uffff\ufffe\u0001\u007f""#, "\u{ffff}\u{fffe}\u{1}\u{7f}", 0),
        odd_id("a NUL in the id", r"user_\u0000", "user_\u{fffd}"),
        odd_id("a half character in the id", r"user_\ud800!", "user_\u{fffd}!"),
        user("NULs in keys", r#""public_metadata":{"\u0000":1,"a\ud800":{"\udc00":2}}"#)
            .with("public_metadata", json!({"\u{fffd}": 1, "a\u{fffd}": {"\u{fffd}": 2}}))
            .sanitized(3),
        user("keys that become one", r#""public_metadata":{"\u0000":1,"\ud800":2}"#)
            .with("public_metadata", json!({"\u{fffd}": 2}))
            .sanitized(2),
        Case::ignored("a NUL in the type", r#"{"type":"user.updated\u0000","timestamp":1}"#).sanitized(1),
    ]
}

/// Keys that the JSON library uses internally: users who may write metadata may write them.
fn private_keys() -> Vec<Case> {
    let of = |name: &str, key: &str, sent: &str, kept: &Value| {
        let sent = format!(r#""public_metadata":{{"{key}":{sent}}}"#);
        user(name, &sent).with("public_metadata", kept.clone()).sanitized(1)
    };
    let (number, raw) = ("_serde_json::private::Number", "_serde_json::private::RawValue");
    // The content of the text would be parsed: a NUL in it, or a nesting of any depth.
    let deep = format!(r#""{}{}""#, "[".repeat(1000), "]".repeat(1000));
    vec![
        of("a private number", "$serde_json::private::Number", r#""12""#, &json!({number: "12"})),
        of("a private number that is none", "$serde_json::private::Number", r#""x""#, &json!({number: "x"})),
        of("a private text", "$serde_json::private::RawValue", r#""[1]""#, &json!({raw: "[1]"})),
        of(
            "a NUL in a private text",
            r"\u0024serde_json::private::\u0052awValue",
            r#""\"\\u0000\"""#,
            &json!({raw: r#""\u0000""#}),
        ),
        of(
            "depth in a private text",
            "$serde_json::private::RawValue",
            &deep,
            &json!({raw: deep.trim_matches('"')}),
        ),
    ]
}

/// Bytes that are not valid UTF-8.
fn no_text() -> Vec<Case> {
    let of = |name: &str, bytes: &[u8]| {
        let text = event(r#"{"id":"user_no_text","first_name":"@"}"#);
        let (before, after) = text.split_once('@').expect("a place");
        parked(name, [before.as_bytes(), bytes, after.as_bytes()].concat(), InvalidJson)
    };
    vec![
        of("a byte of no text", &[0xff]),
        of("an overlong NUL", &[0xc0, 0x80]),
        of("a half character in UTF-8", &[0xed, 0xa0, 0x80]),
        of("a torn character", &[0xf0, 0x9f, 0x98]),
        of("beyond the last character", &[0xf4, 0x90, 0x80, 0x80]),
        of("Latin-1", b"caf\xe9"),
        no_json("no text around it", [b"\xff", event("{}").as_bytes()].concat()),
    ]
}

/// Bodies that are not an event.
fn whole_bodies() -> Vec<Case> {
    let whole = event(r#"{"id":"user_whole"}"#);
    let data = |json: &str| event(&format!(r#"{{"id":"user_whole","public_metadata":{json}}}"#));
    let others = ["{}", "[]", "null", "true", "7", r#""user.updated""#, " {} \n"];
    let not_events = others.map(|body| Case::parked(body, body, NotAnEvent, None));
    let wrong = [
        "NaN", "Infinity", "-", "01", "+1", "1.", ".5", "1e", "0x10", "'a'", "{a:1}", "[1,]", "[1 2]",
        "\u{0}",
    ];
    let wrong = wrong.map(|json| no_json(json, data(json)));
    let shape = [
        no_json("nothing", ""),
        no_json("white space", " \r\n\t "),
        no_json("no JSON", "hello"),
        no_json("half of it", whole[..whole.len() / 2].to_owned()),
        no_json("all but the end", whole[..whole.len() - 1].to_owned()),
        no_json("a comment", whole.replacen('{', "{/**/", 1)),
        no_json("UTF-16", whole.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        no_json("an unknown escape", whole.replace("user_whole", r"user\xwhole")),
        no_json("a short escape", whole.replace("user_whole", r"user\u00")),
        Case::row("white space around it", format!("\n\t {whole} \r\n"), &USERS, "user_whole"),
    ];
    // Only the envelope of these is wrong: their type is still reported.
    let around = [
        parked("a NUL byte in a text", whole.replace("user_whole", "user\u{0}whole"), InvalidJson),
        parked("a line break in a text", whole.replace("user_whole", "user\nwhole"), InvalidJson),
        parked("a byte order mark", format!("\u{feff}{whole}"), InvalidJson),
        parked("a NUL byte behind it", format!("{whole}\u{0}"), InvalidJson),
        parked("two of them", whole.repeat(2), InvalidJson),
        parked("more behind it", format!("{whole}]"), InvalidJson),
    ];
    not_events.into_iter().chain(wrong).chain(shape).chain(around).collect()
}

/// Nesting.
fn depths() -> Vec<Case> {
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        let around = depth - DEPTH_OF_METADATA;
        format!("{}{inner}{}", open.repeat(around), close.repeat(around))
    };
    let fine = [
        metadata("arrays as deep as may be", &nested("[", "1", "]", DEPTH_MAX)),
        metadata("objects as deep as may be", &nested(r#"{"a":"#, "1", "}", DEPTH_MAX)),
    ];
    let too_deep = [128, 129, 200, 10_000, 200_000].into_iter().flat_map(|depth| {
        [("[", "]"), (r#"{"a":"#, "}")].map(|(open, close)| {
            let json = nested(open, "1", close, depth);
            let body = event(&format!(r#"{{"id":"user_deep","public_metadata":{json}}}"#));
            parked(&format!("{depth} deep, by {open}"), body, TooDeep)
        })
    });
    let open = [
        Case::parked("open arrays", "[".repeat(BODY_MAX), TooDeep, None),
        Case::parked("open objects", r#"{"a":"#.repeat(BODY_MAX / 5), TooDeep, None),
    ];
    fine.into_iter().chain(too_deep).chain(open).collect()
}

/// Bodies of the maximum length.
fn sizes() -> Vec<Case> {
    let to_the_limit = |name: &str, filler: &str| {
        let room = BODY_MAX - event(&format!(r#"{{"id":"user_{}","first_name":""}}"#, slug(name))).len();
        let text = filler.repeat(room / filler.len());
        let kept: String = serde_json::from_str(&format!(r#""{text}""#)).expect("a text");
        named(name, &format!(r#""{text}""#), &kept)
    };
    let list = |element: &str, count: usize| format!("[{}]", vec![element; count].join(","));
    let keys: Vec<String> = (0..70_000).map(|number| format!(r#""key_{number}":{number}"#)).collect();
    vec![
        metadata("64 KB of metadata", &format!(r#"{{"notes":"{}"}}"#, "ü".repeat(32 * 1024))),
        metadata("70,000 keys", &format!("{{{}}}", keys.join(","))),
        metadata("a key of 900 KB", &format!(r#"{{"{}":1}}"#, "k".repeat(900_000))),
        metadata("400,000 elements", &list("{}", 300_000)),
        metadata("500,000 numbers", &list("7", 500_000)),
        to_the_limit("1 MiB of text", "a"),
        to_the_limit("1 MiB of emoji", "\u{1f600}"),
        to_the_limit("1 MiB of escapes", r"\u00e9"),
        to_the_limit("1 MiB of quotation marks", r#"\""#),
    ]
}

/// A repeated key: the last value counts, as in Postgres and in JavaScript.
fn twice() -> Vec<Case> {
    let row = |name: &str, body: String| Case::row(name, body, &USERS, format!("user_{}", slug(name)));
    let whole = |name: &str, before: &str, after: &str| {
        let data = format!(r#"{{"id":"user_{}","first_name":"last"}}"#, slug(name));
        let body = format!(r#"{{{before}"type":"user.updated","timestamp":{AT},"data":{data}{after}}}"#);
        row(name, body).with("first_name", json!("last"))
    };
    vec![
        whole("the type twice", r#""type":"user.deleted","#, ""),
        whole("the type twice, once no text", r#""type":7,"#, ""),
        whole("the timestamp twice", r#""timestamp":"no","#, &format!(r#","timestamp":{AT}"#)),
        whole("data twice", r#""data":{"id":"user_first"},"#, ""),
        whole("data twice, once none", r#""data":null,"#, ""),
        row("the id twice", event(r#"{"id":"user_first","id":"user_the_id_twice"}"#)),
        row("the id twice, once spelled", event(r#"{"id":7,"\u0069d":"user_the_id_twice__once_spelled"}"#)),
        user("a name twice", r#""first_name":["first"],"first_name":"last""#)
            .with("first_name", json!("last")),
        user("metadata twice", r#""public_metadata":{"a":1,"b":{"c":1,"c":2},"b":{"d":1,"d":3}}"#)
            .with("public_metadata", json!({"a": 1, "b": {"d": 3}})),
        parked("the id twice, the last none", event(r#"{"id":"user_first","id":null}"#), MissingId),
    ]
}

/// Ids, types and keys: of the maximum length, too long, and with special characters.
fn names() -> Vec<Case> {
    let id = |id: &str| {
        let body = event(&format!(r#"{{"id":{}}}"#, json!(id)));
        if (1..=255).contains(&id.len()) {
            Case::row(format!("the id {id:.40}"), body, &USERS, id)
        } else {
            parked(&format!("an id of {} bytes", id.len()), body, MissingId)
        }
    };
    let ended = |length: usize| {
        let (name, id) = (format!("the end of an id of {length} bytes"), "e".repeat(length));
        let body =
            format!(r#"{{"type":"user.deleted","timestamp":{AT},"data":{{"id":"{id}","deleted":true}}}}"#);
        Case::parked(name, body, MissingId, Some("user.deleted"))
    };
    let event_type = |length: usize| format!(r#"{{"type":"{}","timestamp":1}}"#, "t".repeat(length));
    let foreign = |length: usize| {
        let (name, text) = (format!("an organization's creator of {length} bytes"), "c".repeat(length));
        let org = format!("org_{}", slug(&name));
        let body = event(&format!(r#"{{"id":"{org}","created_by":"{text}"}}"#));
        let fits = length <= 255;
        Case::row(name, body.replace("user.updated", "organization.updated"), &ORGANIZATIONS, org)
            .with("created_by", if fits && length > 0 { json!(text) } else { Value::Null })
            .mismatched(usize::from(!fits))
    };
    let ids = [
        "",
        &"i".repeat(255),
        &"i".repeat(256),
        &"\u{20ac}".repeat(85),
        &"\u{20ac}".repeat(86),
        " ",
        "a\nb",
        "' OR 1=1; --",
        "\\",
        "%_",
        "{user}",
        "\u{202e}resu",
        "\u{feff}",
        "user\u{301}",
        "NULL",
        "$1",
        "\u{1}",
    ];
    let mut cases: Vec<Case> = ids.into_iter().map(id).collect();
    cases.extend([
        Case::ignored("a type of 255 bytes", event_type(255)),
        Case::parked("a type of 256 bytes", event_type(256), NotAnEvent, None),
        Case::parked("an empty type", event_type(0), NotAnEvent, None),
        ended(256),
        ended(3000),
        parked("an id of 3,000 bytes", event(&format!(r#"{{"id":"{}"}}"#, "i".repeat(3000))), MissingId),
        foreign(0),
        foreign(255),
        foreign(256),
        metadata("an empty key", r#"{"":{"":1}}"#),
        metadata(
            "keys of other people's machines",
            r#"{"__proto__":{"a":1},"constructor":2,"$ref":"3","@id":4}"#,
        ),
        metadata("metadata that are a text", r#""{}""#),
        metadata("metadata that are false", "false"),
    ]);
    cases
}

/// Name that a trigger of an application refuses, and no rule of Rollbook's.
pub(super) const REFUSED_NAME: &str = "refused";

/// Cases that only Postgres refuses.
pub(super) fn refused() -> Case {
    let body = event(&format!(r#"{{"id":"user_refused","first_name":"{REFUSED_NAME}"}}"#));
    parked("a name that a trigger refuses", body, Reason::StoreRefused)
}
