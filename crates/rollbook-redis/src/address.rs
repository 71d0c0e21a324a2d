//! Where Redis is: from a URL to something that can be connected to.
//!
//! * `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` with TLS
//! * `redis+sentinel://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT…]/SERVICE[/DB]`, `rediss+sentinel://…`
//! * `redis+cluster://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT…]`, `rediss+cluster://…`
//!
//! User and password are percent-encoded. A sentinel is asked without them: they are Redis's own.

use std::fmt;
use std::time::Duration;

use redis::{ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, TlsCertificates};
use rollbook_core::queue::QueueError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::settings::RedisSettings;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is. Shown without user and password.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) form: Form,
    pub(crate) tls: bool,
    pub(crate) certificates: Option<TlsCertificates>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) database: i64,
    /// What the names of our keys begin with there.
    pub(crate) key_prefix: String,
}

/// How it is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// At its address.
    Single,
    /// Sentinels know where the master of this service is.
    Sentinel(String),
    /// Some nodes of the cluster are given; they know the others.
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
    /// Reads the URL and the certificates' file.
    pub(crate) fn of(settings: &RedisSettings) -> Result<Self, QueueError> {
        let mut address = Self::parse(&settings.url).map_err(|wrong| {
            QueueError::Deployment(format!("the Redis URL {wrong}; write redis://USER:PASSWORD@HOST:PORT/DB"))
        })?;
        if let Some(path) = &settings.ca_file {
            let unusable = |why: &str| {
                QueueError::Deployment(format!("the certificates in {} can't be used: {why}", path.display()))
            };
            let root_cert = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
            // The crate would take a file without any, and then trust nobody.
            let certificates = CertificateDer::pem_slice_iter(&root_cert).collect::<Result<Vec<_>, _>>();
            if certificates.map_err(|error| unusable(&error.to_string()))?.is_empty() {
                return Err(unusable("there is none in it, as PEM"));
            }
            let client_tls: Option<ClientTlsConfig> = None;
            address.certificates = Some(TlsCertificates { client_tls, root_cert: Some(root_cert) });
        }
        address.key_prefix.clone_from(&settings.key_prefix);
        Ok(address)
    }

    /// In words, also where it can't be used.
    pub(crate) fn describe(url: &str) -> String {
        Self::parse(url)
            .map_or_else(|wrong| format!("Redis, whose URL {wrong}"), |address| address.to_string())
    }

    fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("has no scheme")?;
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => return Err("begins with no known scheme".to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err("has more than host and path; TLS is rediss://".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some((user, password)) => (decoded(user)?, decoded(password)?),
        };
        let (form, default_port, database) = match kind {
            "" => (Form::Single, PORT, path),
            "sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("names no service behind the sentinels' addresses".to_owned());
                }
                (Form::Sentinel(service.to_owned()), SENTINEL_PORT, database)
            }
            "cluster" if path.is_empty() => (Form::Cluster, PORT, ""),
            "cluster" => return Err("names a database, and a cluster has only one".to_owned()),
            _ => return Err("begins with no known scheme".to_owned()),
        };
        let hosts = hosts.split(',').map(|host| host_and_port(host, default_port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        if form == Form::Single && hosts.len() > 1 {
            return Err(
                "names several hosts; for those write redis+cluster:// or redis+sentinel://".to_owned()
            );
        }
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| "names a database that is no number".to_owned())?;
        let key_prefix = crate::KEY_PREFIX.to_owned();
        Ok(Self { form, tls, certificates: None, user, password, hosts, database, key_prefix })
    }

    /// The address of one host.
    pub(crate) fn host(&self, host: &str, port: u16) -> ConnectionAddr {
        if self.tls {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.to_owned(), port)
        }
    }

    /// How Redis itself is logged in to, at this address.
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

/// Nothing is said for this long before the kernel asks whether the other side is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// How often it asks, and how often without an answer before the connection is given up.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// Without Nagle's delay. Dead peers are noticed, also while nothing is sent, and a balancer or firewall on the way
/// does not take a quiet connection for a dead one.
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

fn decoded(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(
                "has a % in user or password that is not followed by two digits; write it as %25".to_owned()
            );
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "has a user or password that is no UTF-8".to_owned())
}

fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address without a port are inside its brackets.
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (host, port.ok_or("has a port that is none")?)
        }
        _ => (text, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err("has no host".to_owned()) } else { Ok((host.to_owned(), port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_hosts_login_and_database() {
        let address = Address::parse("rediss://me:p%40ss@db.example:7000/3").expect("a URL");
        assert_eq!((address.form, address.tls, address.database), (Form::Single, true, 3));
        assert_eq!(address.hosts, [("db.example".to_owned(), 7000)]);
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("me"), Some("p@ss")));
        let address = Address::parse("redis://:secret@[::1]").expect("a URL");
        assert_eq!(address.hosts, [("::1".to_owned(), 6379)]);
        assert_eq!((address.user, address.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn sentinels_and_clusters_are_named_by_several_hosts() {
        let address = Address::parse("redis+sentinel://:pw@a,b:1/main/2").expect("a URL");
        assert_eq!((&address.form, address.database), (&Form::Sentinel("main".into()), 2));
        assert_eq!(address.hosts, [("a".to_owned(), 26_379), ("b".to_owned(), 1)]);
        let address = Address::parse("redis+cluster://a:1,b:2").expect("a URL");
        assert_eq!((address.form, address.hosts.len()), (Form::Cluster, 2));
    }

    #[test]
    fn what_is_no_url_is_refused_and_never_shown() {
        for url in [
            "localhost:6379",
            "http://me:hidden@h",
            "redis://me:hidden@h:0",
            "redis://me:hidden@h/x",
            "redis://me:hidden@",
            "redis://me:hid%zzden@h",
            "redis://me:hidden@a,b",
            "redis+cluster://me:hidden@a/1",
            "redis+sentinel://me:hidden@a",
            "redis://me:hidden@h?tls=yes",
        ] {
            let refusal = Address::parse(url).err().expect(url);
            assert!(!refusal.contains("hid"), "{refusal}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_login() {
        let shown = |url| Address::parse(url).expect("a URL").to_string();
        assert_eq!(shown("redis://me:pw@h:1/2"), "Redis at h:1");
        assert_eq!(shown("redis+sentinel://:pw@a,b/main"), "Redis main by the sentinels at a:26379,b:26379");
        assert_eq!(shown("redis+cluster://:pw@a,b"), "the Redis cluster at a:6379,b:6379");
    }
}
