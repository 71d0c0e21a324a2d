//! The request of a change (Standard Webhooks).

use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{ChangeLine, Generation, Rows, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_operator::changes::{ChangeView, ExpandedChange, PushedChange, generation_name};

use crate::ports::Push;

/// Makes the body. With `rows` it has the row as it is now.
///
/// # Errors
/// The row can't be read.
pub(crate) async fn body(
    line: &ChangeLine,
    feed: Generation,
    rows: Option<&dyn Rows>,
) -> Result<Vec<u8>, StoreError> {
    let change = ChangeView::from(line.clone());
    let change = match rows {
        Some(rows) => ExpandedChange::read(change, rows).await?,
        None => ExpandedChange::plain(change),
    };
    // A map with text keys always has a JSON form.
    Ok(serde_json::to_vec(&PushedChange { change, feed: generation_name(feed) }).unwrap_or_default())
}

/// Signs a body.
pub(crate) fn push(line: &ChangeLine, body: Vec<u8>, secrets: &SigningSecrets, now: Timestamp) -> Push {
    let id = format!("chg_{}", line.position);
    let signature = secrets.sign(&id, now, &body);
    Push { timestamp: (now.as_millis() / 1000).to_string(), id, signature, body: body.into() }
}
