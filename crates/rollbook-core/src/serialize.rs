//! JSON of the core's types: their text; of a resource the name of its table.

use serde::{Serialize, Serializer};

use crate::catalog::Resource;
use crate::delivery::MessageId;
use crate::event::Mismatch;
use crate::time::Timestamp;
use crate::trace::Traceparent;

macro_rules! as_text {
    ($($type:ty),+) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}
as_text!(MessageId, Mismatch, Timestamp, Traceparent);

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.table)
    }
}
