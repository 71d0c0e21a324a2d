//! Tests of the core's public interface: the verifier against its oracle, and parsing events.

mod canonical;
mod events;
mod oracle;
mod signatures;
mod values;
