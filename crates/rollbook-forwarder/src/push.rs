//! Makes a signed request of a change (Standard Webhooks).

use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{ChangeLine, Rows, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_operator::changes::{ChangeView, ExpandedChange};

use crate::ports::Push;

/// Makes the request. With `rows`, the body has the row as it is now.
///
/// # Errors
/// The row can't be read.
pub(crate) async fn push(
    line: &ChangeLine,
    rows: Option<&dyn Rows>,
    secrets: &SigningSecrets,
    now: Timestamp,
) -> Result<Push, StoreError> {
    let change = ChangeView::from(line.clone());
    let change = match rows {
        Some(rows) => ExpandedChange::read(change, rows).await?,
        None => ExpandedChange::plain(change),
    };
    // A map with text keys always has a JSON form.
    let body = serde_json::to_vec(&change).unwrap_or_default();
    let id = format!("chg_{}", line.position);
    let signature = secrets.sign(&id, now, &body);
    Ok(Push { timestamp: (now.as_millis() / 1000).to_string(), id, signature, body: body.into() })
}
