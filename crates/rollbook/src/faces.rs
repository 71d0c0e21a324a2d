//! Faces of a process: its jobs in addition to answering at the ops port.

use crate::wire::Component;

/// Faces of a process. Every process also has the ops port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faces {
    /// Whether the process receives deliveries.
    pub(crate) receiver: bool,
    /// Whether the process applies deliveries.
    pub(crate) worker: bool,
}

impl Faces {
    /// Both faces.
    pub(crate) const ALL: Self = Self { receiver: true, worker: true };

    /// Returns the name of the command with these faces.
    pub(crate) const fn command(self) -> &'static str {
        match (self.receiver, self.worker) {
            (true, true) => "serve",
            (true, false) => "receive",
            (false, _) => "work",
        }
    }

    /// Returns the parts that processes with these faces use.
    pub(crate) const fn parts(self) -> &'static [Component] {
        if self.worker { &Component::ALL } else { &[Component::Queue] }
    }
}
