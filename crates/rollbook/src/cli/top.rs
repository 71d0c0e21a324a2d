//! Arguments of `top`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use super::Output;
use crate::config::values;
use crate::secrets::looks_secret;

/// Maximum interval of a refresh.
const EVERY_MAX: Duration = Duration::from_secs(60 * 60);
/// Minimum interval of a refresh: each asks every process.
const EVERY_MIN: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  rollbook top\n  rollbook top 10.0.0.5:9464 10.0.0.6:9464\n  \
                        rollbook top --once --output json\n\n\
                        Look here first when you are called: it needs neither Prometheus nor a right on queue or store. It\n\
                        reads /metrics and /readyz of the ops ports. Without a terminal it prints one snapshot. Ctrl-C ends\n\
                        it. Exit code 1: no process answers.")]
pub(crate) struct Top {
    /// Addresses of ops ports, HOST:PORT, of one deployment [default: the process at the setting `ops_listen`]
    #[arg(value_name = "ADDRESS", value_parser = address)]
    pub(crate) addresses: Vec<SocketAddr>,
    /// Interval of a refresh, 200ms to 1h; rates are those of the last 30 s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    pub(crate) every: Duration,
    /// Prints one snapshot after one interval, and leaves nothing out: long lines are continued
    #[arg(long)]
    pub(crate) once: bool,
    /// Prints for people or for programs; json is one snapshot
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

fn every(text: &str) -> Result<Duration, String> {
    let every =
        values::duration(text, EVERY_MAX).map_err(|wrong| format!("{}; {}", wrong.what, wrong.fix))?;
    if every < EVERY_MIN { Err("it is shorter than 200ms".to_owned()) } else { Ok(every) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let place = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let fix = "write HOST:PORT, such as 127.0.0.1:9464";
    if looks_secret(place) {
        return Err(format!("it looks like a URL, a key or a password; {fix}"));
    }
    let found = place.to_socket_addrs().map_err(|error| format!("{error}; {fix}"))?.next();
    found.ok_or_else(|| format!("the host has no address; {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_and_an_interval_has_a_minimum() {
        for text in ["127.0.0.1:9464", "http://127.0.0.1:9464/", "[::1]:9464"] {
            assert!(address(text).is_ok_and(|address| address.port() == 9464), "{text}");
        }
        for text in ["127.0.0.1", "", "http://me:word@127.0.0.1:9464", "127.0.0.1:port"] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(every("200ms"), Ok(EVERY_MIN));
        assert!(every("199ms").is_err() && every("61m").is_err() && every("soon").is_err());
    }
}
