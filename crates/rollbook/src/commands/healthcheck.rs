//! `healthcheck`: one request to the ops port of a running process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::on_all_cores;
use crate::cli::{Healthcheck, ProbeName};
use crate::config::Config;
use crate::ops_port;
use crate::output::{harmless, print};

/// Maximum wait. A container's health check has 30 s by default; the ops port answers within 2 s.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the request.
///
/// # Errors
/// No process answers, or the answer is not 200.
pub(crate) fn run(config: &Config, arguments: &Healthcheck) -> anyhow::Result<()> {
    let path = match arguments.probe {
        ProbeName::Healthz => "/healthz",
        ProbeName::Livez => "/livez",
        ProbeName::Readyz => "/readyz",
    };
    let address = reachable(config.ops_address());
    on_all_cores(async {
        let unanswered = || format!("no process answers at http://{address}{path}");
        let mut connection = ops_port::connect(config, address, TIMEOUT).await.with_context(unanswered)?;
        let answer = connection.get(path).await.with_context(unanswered)?;
        let body = harmless(answer.body.trim());
        if answer.status != 200 {
            bail!("http://{address}{path} answers {}: {body}", answer.status);
        }
        Ok(print(&body)?)
    })
}

/// Returns the address under which this machine reaches a server that listens on `address`.
pub(crate) fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}
