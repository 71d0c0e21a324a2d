//! A gate at which calls wait.

use std::sync::Arc;

use tokio::sync::watch;

/// Blocks calls until the test opens it, and lets the test wait for their arrival. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    arrived: Arc<watch::Sender<usize>>,
}

impl Gate {
    /// Creates a closed gate.
    pub fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), arrived: Arc::new(watch::Sender::new(0)) }
    }

    /// Opens the gate permanently.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` calls in total have arrived at the gate.
    pub async fn arrived(&self, count: usize) {
        // Neither end can be dropped while `self` exists.
        _ = self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// Arrives at the gate and waits until it is open.
    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
