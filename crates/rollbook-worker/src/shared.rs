//! State that all lanes and background tasks of a worker share.

use std::sync::Arc;

use rollbook_core::queue::Consumer;
use rollbook_core::store::Store;
use rollbook_core::time::Clock;

use crate::apply::Instances;
use crate::backoff::SharedOutage;
use crate::dead_letter_log::DeadLetterLog;
use crate::evidence::Evidence;
use crate::gate::Gate;
use crate::isolation::Isolation;
use crate::metrics::Metrics;
use crate::mismatch_log::MismatchLog;
use crate::pace::Pace;
use crate::settings::Settings;

/// State that all lanes of a worker share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) queue: Arc<dyn Consumer>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) gate: Gate,
    pub(crate) pace: Pace,
    pub(crate) evidence: Evidence,
    pub(crate) instances: Instances,
    pub(crate) queue_outage: SharedOutage,
    pub(crate) isolation: Isolation,
    pub(crate) dead_letter_log: Arc<DeadLetterLog>,
    pub(crate) mismatches: MismatchLog,
    /// Held by the lane that reads large bodies.
    pub(crate) large: tokio::sync::Mutex<()>,
}
