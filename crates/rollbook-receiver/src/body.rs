//! Reads a body: the raw bytes, within the limits on one body and on all of them together.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::Refusal;

/// A body, with its share of the room that all bodies have together.
pub(crate) struct Held {
    /// The bytes as they were sent.
    pub(crate) bytes: Bytes,
    /// One permit for each of them. Keep it as long as the bytes.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Reads a body to its end. Room is taken for what has come, not for what was announced: an
/// announcement costs a client nothing.
///
/// # Errors
/// [`Refusal::TooLarge`] for more than `body_max` bytes, before any is read where that was announced;
/// [`Refusal::NoRoom`] where `room` has no permits left; [`Refusal::Torn`].
pub(crate) async fn read(
    mut body: Incoming,
    body_max: usize,
    room: &Arc<Semaphore>,
) -> Result<Held, Refusal> {
    if body.size_hint().lower() > body_max as u64 {
        return Err(Refusal::TooLarge);
    }
    // Copied, though one frame often has it all: the frame is a window on hyper's read buffer and
    // would keep up to 64 KiB of it alive while the delivery waits.
    let mut bytes = Vec::new();
    let mut taken = take(room, 0)?;
    while let Some(frame) = body.frame().await {
        // Trailers are not signed and mean nothing.
        let Ok(data) = frame.map_err(|_| Refusal::Torn)?.into_data() else { continue };
        if data.len() > body_max - bytes.len() {
            return Err(Refusal::TooLarge);
        }
        taken.merge(take(room, data.len())?);
        bytes.extend_from_slice(&data);
        if body.is_end_stream() {
            break;
        }
    }
    // Boxed, so that no spare capacity is held that `room` does not count.
    Ok(Held { bytes: Bytes::from(bytes.into_boxed_slice()), room: taken })
}

fn take(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let bytes = u32::try_from(bytes).map_err(|_| Refusal::TooLarge)?;
    Arc::clone(room).try_acquire_many_owned(bytes).map_err(|_| Refusal::NoRoom)
}
