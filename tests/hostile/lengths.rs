//! Texts at the limit of what an index of Postgres holds, and beyond it. They are random, so that none can be
//! compressed to a length that fits.

use rollbook_core::catalog::{Column, Kind, Resource, Source};
use rollbook_core::event::{INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX};
use serde_json::{Value, json};

use super::stage::Case;
use super::types::{bytes, put, sample};

/// Returns this many bytes, with one character of three bytes.
fn text(length: usize) -> String {
    let rest = length - '\u{20ac}'.len_utf8();
    std::iter::once('\u{20ac}').chain(std::iter::repeat_with(fastrand::alphanumeric).take(rest)).collect()
}

fn put_column(data: &mut Value, column: &Column, text: &str) {
    match column.source {
        Source::Path(path) | Source::Either(path, _) => put(data, path, json!(text)),
        Source::Chosen { list, id_of, field } => {
            data[id_of] = json!("chosen");
            data[list] = json!([{ "id": "another", field: self::text(20) }, { "id": "chosen", field: text }]);
        }
    }
}

/// Returns all cases of one table.
pub(super) fn of(resource: &'static Resource) -> Vec<Case> {
    let indexed = resource.columns.iter().filter(|column| column.kind == Kind::IndexedText);
    let lengths = [INDEXED_TEXT_LENGTH_MAX, INDEXED_TEXT_LENGTH_MAX + 1, 3000, 20_000];
    let each = indexed.flat_map(|column| lengths.map(|length| (column, length)));
    let one_by_one = each.map(|(column, length)| {
        let (mut event, text) = (sample(resource), text(length));
        let id = format!("{}_{}_{length}", resource.table, column.name);
        event["data"]["id"] = json!(id);
        put_column(&mut event["data"], column, &text);
        let fits = length <= INDEXED_TEXT_LENGTH_MAX;
        Case::row(
            format!("{}.{} of {length} bytes", resource.table, column.name),
            bytes(&event),
            resource,
            id,
        )
        .with(column.name, if fits { json!(text) } else { Value::Null })
        .mismatched(usize::from(!fits))
    });
    one_by_one.chain([all_at_once(resource)]).collect()
}

/// Returns a case with every id, the row's own too, and every indexed text of the maximum length.
fn all_at_once(resource: &'static Resource) -> Case {
    let (mut event, id) = (sample(resource), text(NAME_LENGTH_MAX));
    event["data"]["id"] = json!(id);
    let mut expected = Vec::new();
    for column in resource.columns {
        let length = match column.kind {
            Kind::Id => NAME_LENGTH_MAX,
            Kind::IndexedText => INDEXED_TEXT_LENGTH_MAX,
            _ => continue,
        };
        let text = text(length);
        put_column(&mut event["data"], column, &text);
        expected.push((column.name, json!(text)));
    }
    let case = Case::row(format!("{}: all at their longest", resource.table), bytes(&event), resource, id);
    expected.into_iter().fold(case, |case, (name, value)| case.with(name, value))
}
