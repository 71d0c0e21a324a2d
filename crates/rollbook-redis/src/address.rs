//! Address of a Redis server: parses a URL into connection parameters.
//!
//! * `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` with TLS
//! * `redis+sentinel://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT…]/SERVICE[/DB]`, `rediss+sentinel://…`
//! * `redis+cluster://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT…]`, `rediss+cluster://…`
//!
//! User and password are percent-encoded. They are for Redis itself; sentinels are asked without them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, TlsCertificates};
use rollbook_core::protection::{Protection, is_loopback};
use rollbook_core::queue::QueueError;
use rollbook_core::url::{Parts, decoded};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::settings::RedisSettings;
use crate::tls::Trust;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// Address of a server. Displayed without user and password.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) form: Form,
    pub(crate) tls: bool,
    pub(crate) trust: Trust,
    /// The authorities of `trust`, for connections by sentinels.
    pub(crate) certificates: Option<TlsCertificates>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) database: i64,
    /// Prefix of the queue's keys.
    pub(crate) key_prefix: String,
    /// Whether a TLS handshake with a server succeeded; shared by all copies.
    has_met: Arc<AtomicBool>,
}

/// Form of the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A single server at its address.
    Single,
    /// Sentinels that know the master of this service.
    Sentinel(String),
    /// A cluster; the given nodes know the others.
    Cluster,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let hosts = hosts.join(",");
        match &self.form {
            Form::Single => write!(f, "Redis at {hosts}"),
            Form::Sentinel(service) => write!(f, "Redis {service} by the sentinels at {hosts}"),
            Form::Cluster => write!(f, "the Redis cluster at {hosts}"),
        }
    }
}

impl Address {
    /// Parses the URL and reads the file of certificates.
    pub(crate) fn of(settings: &RedisSettings) -> Result<Self, QueueError> {
        let mut address = Self::parse(&settings.url).map_err(|wrong| {
            QueueError::Deployment(format!("the Redis URL {wrong}; write redis://USER:PASSWORD@HOST:PORT/DB"))
        })?;
        if let Some(path) = &settings.ca_file {
            let invalid_file = |why: &str| {
                QueueError::Deployment(format!("the certificates in {} can't be used: {why}", path.display()))
            };
            let root_cert = std::fs::read(path).map_err(|error| invalid_file(&error.to_string()))?;
            // The library accepts a file without certificates, and would then trust no server.
            let certificates = CertificateDer::pem_slice_iter(&root_cert).collect::<Result<Vec<_>, _>>();
            let certificates = certificates.map_err(|error| invalid_file(&error.to_string()))?;
            if certificates.is_empty() {
                return Err(invalid_file("the file contains no PEM certificate"));
            }
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots.add(certificate).map_err(|error| invalid_file(&error.to_string()))?;
            }
            address.trust = Trust::Authorities(Arc::new(roots));
            let client_tls: Option<ClientTlsConfig> = None;
            address.certificates = Some(TlsCertificates { client_tls, root_cert: Some(root_cert) });
        }
        if !settings.fingerprints.is_empty() {
            if matches!(address.form, Form::Sentinel(_)) {
                return Err(QueueError::Deployment(
                    "redis_fingerprint can't be used with sentinels: set redis_ca_file to the certificate instead"
                        .to_owned(),
                ));
            }
            address.trust = Trust::Fingerprints(settings.fingerprints.clone().into());
        }
        address.key_prefix.clone_from(&settings.key_prefix);
        Ok(address)
    }

    /// Describes the address in words, also if the URL is not valid.
    pub(crate) fn describe(url: &str) -> String {
        Self::parse(url)
            .map_or_else(|wrong| format!("Redis (the URL {wrong})"), |address| address.to_string())
    }

    fn parse(url: &str) -> Result<Self, String> {
        let parts = Parts::of(url).map_err(|error| error.to_string())?;
        let (tls, kind) = match parts.scheme.split_once('+').unwrap_or((parts.scheme, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => return Err("has an unknown scheme".to_owned()),
        };
        parameters(&parts, tls)?;
        let (user, password) = parts.login.unwrap_or_default();
        let (user, password) = (decoded_nonempty(user)?, decoded_nonempty(password)?);
        let path = parts.path;
        let (form, default_port, database) = match kind {
            "" => (Form::Single, PORT, path),
            "sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("has no service name after the sentinels' addresses".to_owned());
                }
                (Form::Sentinel(service.to_owned()), SENTINEL_PORT, database)
            }
            "cluster" if path.is_empty() => (Form::Cluster, PORT, ""),
            "cluster" => return Err("has a database, and a cluster supports only one".to_owned()),
            _ => return Err("has an unknown scheme".to_owned()),
        };
        let hosts = parts.hosts.split(',').map(|host| host_and_port(host, default_port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        if form == Form::Single && hosts.len() > 1 {
            return Err("has several hosts; for those write redis+cluster:// or redis+sentinel://".to_owned());
        }
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| "has a database that is not a number".to_owned())?;
        Ok(Self {
            form,
            tls,
            trust: Trust::System,
            certificates: None,
            user,
            password,
            hosts,
            database,
            key_prefix: crate::KEY_PREFIX.to_owned(),
            has_met: Arc::default(),
        })
    }

    /// Records that a TLS handshake succeeded: a server is there, and its certificate is trusted.
    pub(crate) fn met(&self) {
        self.has_met.store(true, Ordering::Relaxed);
    }

    /// Protection of the connections to this address; `None` before the first TLS handshake that succeeded.
    pub(crate) fn protection(&self) -> Option<Protection> {
        let is_known = !self.tls || self.has_met.load(Ordering::Relaxed);
        is_known.then(|| self.protection_of_each())
    }

    /// Protection of every connection to this address that can be made.
    fn protection_of_each(&self) -> Protection {
        // Sentinels and cluster nodes name further hosts, which may be remote.
        let is_here = self.form == Form::Single && self.hosts.iter().all(|(host, _)| is_loopback(host));
        match (self.tls, is_here) {
            (true, _) if matches!(self.trust, Trust::Fingerprints(_)) => Protection::Pinned,
            (true, _) => Protection::Verified,
            (false, true) => Protection::Loopback,
            (false, false) => Protection::Clear,
        }
    }

    /// Returns the address of one host.
    pub(crate) fn host(&self, host: &str, port: u16) -> ConnectionAddr {
        if self.tls {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.to_owned(), port)
        }
    }

    /// Adds the login of Redis to a host's address.
    pub(crate) fn login(&self, address: ConnectionAddr) -> redis::RedisResult<redis::ConnectionInfo> {
        let info = address.into_connection_info()?.set_tcp_settings(tcp());
        let mut redis = info.redis_settings().clone().set_db(self.database);
        if let Some(user) = &self.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password);
        }
        Ok(info.set_redis_settings(redis))
    }
}

/// Idle time after which the kernel sends keepalive probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Interval of the probes, and the number of unanswered probes after which the connection is closed.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// TCP settings: no Nagle delay, and keepalive probes. Dead peers are detected even while nothing is sent,
/// and load balancers and firewalls do not drop idle connections.
pub(crate) fn tcp() -> redis::io::tcp::TcpSettings {
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    redis::io::tcp::TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(30))
}

/// Rejects URL parameters and fragments, except TLS parameters that agree with the scheme.
fn parameters(parts: &Parts<'_>, tls: bool) -> Result<(), String> {
    match parts.fragment {
        Some("insecure") => return Err(format!("ends with #insecure: {VERIFIED}")),
        Some(_) => return Err("contains a #; in a password write %23".to_owned()),
        None => {}
    }
    for (number, (name, value)) in (1..).zip(parts.parameters()) {
        let (name, value) = (name.to_ascii_lowercase(), value.to_ascii_lowercase());
        let is_true = matches!(&*value, "true" | "1" | "yes" | "on" | "required" | "cert_required");
        match &*name {
            "ssl" | "tls" | "use_tls" | "usetls" | "ssl_cert_reqs" if is_true && tls => {}
            "ssl" | "tls" | "use_tls" | "usetls" | "ssl_cert_reqs" if is_true => {
                return Err("asks for TLS by a parameter; write rediss:// instead of redis://".to_owned());
            }
            "ssl" | "tls" | "use_tls" | "usetls" if tls => {
                return Err(
                    "begins with rediss:// and asks for no TLS by a parameter; write redis://".to_owned()
                );
            }
            "ssl" | "tls" | "use_tls" | "usetls" => {}
            "ssl_cert_reqs" | "ssl_check_hostname" | "skip_verify" | "insecure" | "tls_insecure" => {
                return Err(format!("has the parameter {name}: {VERIFIED}"));
            }
            "ssl_ca_certs" | "ssl_ca_path" | "ssl_ca_data" | "tls_ca_cert_file" | "cafile" => {
                return Err(format!("has the parameter {name}; name the file in redis_ca_file instead"));
            }
            "ssl_certfile" | "ssl_keyfile" => {
                return Err(format!("has the parameter {name}; certificates of clients are not supported"));
            }
            "db" | "database" => {
                return Err(format!("has the parameter {name}; write the database after the host: /3"));
            }
            "password" | "username" | "user" => {
                return Err(format!("has the parameter {name}; write user and password before the host"));
            }
            // An unknown name may be the rest of a password, so it is not shown.
            _ => {
                return Err(format!(
                    "has an unknown parameter (number {number}): write nothing after the path; \
                     in a password write %3F for ?"
                ));
            }
        }
    }
    Ok(())
}

/// Text for every parameter that would disable the verification of certificates.
const VERIFIED: &str = "certificates are always verified; remove it, and for a private authority set \
                        redis_ca_file, for a self-signed certificate redis_fingerprint";

fn decoded_nonempty(text: &str) -> Result<Option<String>, String> {
    let text = decoded(text).map_err(|error| error.to_string())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address without a port are inside brackets.
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (host, port.ok_or("has an invalid port")?)
        }
        _ => (text, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if !host.chars().all(plain) {
        return Err("has a host that is not a name or an address".to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests;
