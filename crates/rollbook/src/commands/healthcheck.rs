//! `healthcheck`: one request to the ops port of a running process.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cli::{Healthcheck, ProbeName};
use crate::config::Config;
use crate::output::{harmless, print};

/// Maximum wait. A container's health check has 30 s by default; the ops port answers within 2 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of bytes that are read of an answer.
const ANSWER_MAX: u64 = 64 * 1024;

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
    let address = reachable(config.settings.ops_listen);
    let answer = get(address, path).with_context(|| format!("nobody answers at http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("http://{address}{path} answers {}: {}", harmless(status), harmless(body.trim()));
    }
    Ok(print(&harmless(body.trim()))?)
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

fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
