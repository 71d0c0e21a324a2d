//! Address of a Postgres: a URL is parsed into hosts that can be connected to.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollbook_core::lock::lock;
use rollbook_core::protection::{Protection, is_loopback};
use rollbook_core::url::{Parts, UrlError, decoded, encoded};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use crate::environment::{self, Variables};
use crate::link::{Ignored, Link};
use crate::parameters::Parameters;
use crate::pooler;
use crate::settings::PostgresSettings;
use crate::tls::{self, Mode};

const FORM: &str = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE";
const FORM_OF_SEVERAL: &str = "write postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE";

/// In `prefer`, time after which a server that reported no TLS is asked for it again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One host that may serve the database.
#[derive(Clone)]
pub(crate) struct Host {
    options: PgConnectOptions,
    mode: Mode,
    /// When the server last reported that it has no TLS.
    without_tls: Arc<Mutex<Option<Instant>>>,
    link: Arc<Link>,
}

/// Address of a database. Displayed without user and password.
#[derive(Clone)]
pub(crate) struct Address {
    /// Hosts that may serve the database; at least one.
    pub(crate) hosts: Vec<Host>,
    /// Whether a new connection must be to a host that accepts writes: if there are several hosts, or the URL
    /// requires it.
    pub(crate) writable: bool,
    /// Whether the URL or a setting declares a pooler in front of the server.
    pub(crate) pooled: bool,
    /// Whether the URL declares that there is none, such as `pgbouncer=false`.
    declares_no_pooler: bool,
    files: Vec<(&'static str, String)>,
    link: Arc<Link>,
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// A text for the user, without any part of the URL.
    pub(crate) fn parse(url: &str) -> Result<(Self, Ignored), String> {
        Self::parse_with(url, &environment::of_process)
    }

    /// Parses a URL, completed by variables of the environment.
    ///
    /// # Errors
    /// As with [`Self::parse`], or a variable can't be used.
    pub(crate) fn parse_with(url: &str, variables: Variables<'_>) -> Result<(Self, Ignored), String> {
        let parts = Parts::of(url).map_err(refusal)?;
        if !["postgres", "postgresql"].contains(&parts.scheme) {
            return Err(format!("the URL is not Postgres's: {FORM}"));
        }
        if parts.fragment.is_some() {
            return Err(format!("the Postgres URL has a # in it: {FORM}, with # as %23"));
        }
        let mut parameters = Parameters::of(&parts)?;
        let named = hosts(&parts, &parameters)?;
        let has =
            (named.iter().all(|(host, _)| host.is_some()), named.iter().all(|(_, port)| port.is_some()));
        parameters.complete(variables, has)?;
        let login = Login::of(&parts, &parameters)?;
        let mode = parameters.tls.resolve()?;
        let link = Arc::default();
        let host = |host| login.host(host, &parameters, mode, &link);
        let hosts: Vec<Host> = named.iter().map(host).collect::<Result<_, _>>()?;
        let tls = parameters.tls;
        let files = [("sslrootcert", tls.root), ("sslcert", tls.certificate), ("sslkey", tls.key)];
        let address = Self {
            writable: parameters.writable || hosts.len() > 1,
            pooled: parameters.pooled,
            declares_no_pooler: parameters.declares_no_pooler,
            files: files.into_iter().filter_map(|(name, path)| Some((name, path?))).collect(),
            link,
            hosts,
        };
        let pooler = address.pooler_sign();
        let Parameters { ignored, wrong_values, unknown: numbers, .. } = parameters;
        Ok((address, Ignored { names: ignored, wrong_values, numbers, pooler }))
    }

    /// Parses the URL of settings, and checks it against the other settings and the files that it names.
    ///
    /// # Errors
    /// As with [`Self::parse`].
    pub(crate) fn of(settings: &PostgresSettings) -> Result<(Self, Ignored), String> {
        let (mut address, mut ignored) = Self::parse(&settings.url)?;
        address.pooled |= settings.pgbouncer;
        ignored.pooler = address.pooler_sign();
        let files = address.files.iter().filter_map(|(name, path)| {
            let fault = match std::fs::read_to_string(path) {
                Ok(text) if text.contains("-----BEGIN ") => return None,
                Ok(_) => "holds nothing in PEM form (-----BEGIN …)".to_owned(),
                Err(error) => format!("can't be read ({})", error.kind()),
            };
            Some(format!("the file that {name} in the Postgres URL names {fault}"))
        });
        let faults: Vec<String> = files.collect();
        if faults.is_empty() { Ok((address, ignored)) } else { Err(faults.join("; ")) }
    }

    /// Returns the sign that a pooler stands before the server, if no setting says so.
    pub(crate) fn pooler_sign(&self) -> Option<&'static str> {
        if self.pooled || self.declares_no_pooler {
            return None;
        }
        let by_name = |host: &Host| {
            let is_tcp = !host.is_socket();
            is_tcp.then(|| pooler::sign(host.options.get_host(), host.options.get_port())).flatten()
        };
        let refused = self.link.has_refused_settings().then_some(pooler::REFUSED_SETTINGS);
        refused.or_else(|| self.hosts.iter().find_map(by_name))
    }

    /// Returns the state shared by its connections.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Returns the name of the database.
    pub(crate) fn database(&self) -> &str {
        self.hosts[0].options.get_database().unwrap_or(self.user())
    }

    /// Returns the name of the database user.
    pub(crate) fn user(&self) -> &str {
        self.hosts[0].options.get_username()
    }
}

impl Host {
    /// Returns the TLS mode of connections.
    #[cfg(test)]
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Connects in its TLS mode, and records the protection of the connection.
    pub(crate) async fn connect(&self) -> sqlx::Result<PgConnection> {
        // If a dependency adds a second provider, rustls panics without a default. An installed default is kept.
        _ = rustls::crypto::ring::default_provider().install_default();
        let (connection, mode) = match self.mode {
            // In separate attempts, because sqlx does not report which mode it used.
            Mode::Prefer if self.has_said_no_tls() => (self.connect_in(Mode::Disable).await?, Mode::Disable),
            Mode::Prefer => match self.connect_in(Mode::Require).await {
                Err(error) if tls::is_without_tls(&error) => {
                    *lock(&self.without_tls) = Some(Instant::now());
                    (self.connect_in(Mode::Disable).await?, Mode::Disable)
                }
                connected => (connected?, Mode::Require),
            },
            mode => (self.options.connect().await?, mode),
        };
        let protection = match mode.protection() {
            _ if self.is_socket() => Protection::Local,
            Some(protection) if protection.is_private() => protection,
            _ if is_loopback(self.options.get_host()) => Protection::Loopback,
            _ => Protection::Clear,
        };
        self.link.connected(protection);
        Ok(connection)
    }

    /// Returns whether the server reported within [`ASK_AGAIN_AFTER`] that it has no TLS: then it is not
    /// asked for each connection.
    fn has_said_no_tls(&self) -> bool {
        let said = *lock(&self.without_tls);
        said.is_some_and(|at| at.elapsed() < ASK_AGAIN_AFTER)
    }

    async fn connect_in(&self, mode: Mode) -> sqlx::Result<PgConnection> {
        self.options.clone().ssl_mode(mode.to_sqlx()).connect().await
    }

    /// Records that the server refused the settings of a session.
    pub(crate) fn refused_settings(&self) {
        self.link.refused_settings();
    }

    /// Returns the options of a connection that is made elsewhere.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Returns the host with settings of the session.
    pub(crate) fn with_settings(&self, settings: &[(&str, u32)]) -> Self {
        Self { options: self.options.clone().options(settings.iter().copied()), ..self.clone() }
    }

    /// Returns whether the host is a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        socket(&self.options).is_some()
    }

    /// Returns the host with a capacity for prepared statements per connection.
    pub(crate) fn statement_cache_capacity(self, capacity: usize) -> Self {
        Self { options: self.options.statement_cache_capacity(capacity), ..self }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, host) in self.hosts.iter().enumerate() {
            match (socket(&host.options), number) {
                (_, 0) => write!(f, "{host}")?,
                (Some(socket), _) => write!(f, ", in {socket}")?,
                (None, _) => write!(f, ", {}", HostPort(&host.options))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match socket(&self.options) {
            Some(socket) => write!(f, "Postgres in {socket}"),
            None => write!(f, "Postgres at {}", HostPort(&self.options)),
        }
    }
}

/// Displays host and port.
struct HostPort<'a>(&'a PgConnectOptions);

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.get_host(), self.0.get_port());
        if host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Returns the folder of the Unix socket, if the host is one.
fn socket(options: &PgConnectOptions) -> Option<String> {
    let by_path = options.get_socket().map(|path| path.display().to_string());
    by_path.or_else(|| options.get_host().starts_with('/').then(|| options.get_host().to_owned()))
}

fn refusal(error: UrlError) -> String {
    let fix =
        if error == UrlError::Misplaced { "" } else { ", with %XX for special characters in the password" };
    format!("the Postgres URL {error}; {FORM}{fix}")
}

/// Host and port; `None` if the URL leaves them out.
type Named = (Option<String>, Option<u16>);

/// User, password and database.
struct Login {
    user: String,
    password: Option<String>,
    database: Option<String>,
}

impl Login {
    fn of(parts: &Parts<'_>, parameters: &Parameters) -> Result<Self, String> {
        let text = |text: &str| decoded(text).map_err(refusal);
        let (user, password) = parts.login.unwrap_or_default();
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self {
            user: parameters.user.clone().unwrap_or(text(user)?),
            password: parameters.password.clone().or(filled(text(password)?)),
            database: parameters.database.clone().or(filled(text(parts.path)?)),
        })
    }

    /// Returns one host with its connect options. sqlx parses a URL in which everything is encoded, and reads
    /// the rest from the environment and the password file.
    fn host(
        &self,
        (host, port): &Named,
        parameters: &Parameters,
        mode: Option<Mode>,
        link: &Arc<Link>,
    ) -> Result<Host, String> {
        let mut url = "postgres:///?".to_owned();
        let port = port.map(|port| port.to_string());
        let user = Some(&self.user).filter(|user| !user.is_empty());
        let login = [
            ("host", host.as_ref()),
            ("port", port.as_ref()),
            ("user", user),
            ("password", self.password.as_ref()),
            ("dbname", self.database.as_ref()),
        ];
        let login = login.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let options = parameters.options.iter().map(|(name, value)| (&**name, value));
        for (name, value) in login.chain(options) {
            url = format!("{url}{}={}&", encoded(name), encoded(value));
        }
        let unreadable = |_| format!("the Postgres URL can't be read: {FORM}");
        let mut options: PgConnectOptions = url.parse().map_err(unreadable)?;
        let is_socket = socket(&options).is_some();
        let is_here = is_socket || is_loopback(options.get_host());
        // A socket needs no TLS, whatever the URL says, as in libpq.
        let mode = if is_socket { Mode::Disable } else { mode.unwrap_or_else(|| Mode::default_of(is_here)) };
        let tls = &parameters.tls;
        options = options.ssl_mode(mode.to_sqlx());
        if let Some(root) = &tls.root {
            options = options.ssl_root_cert(root);
        }
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        let ours = options.get_application_name().unwrap_or("rollbook").to_owned();
        let name = parameters.application_name.as_ref().unwrap_or(&ours);
        let options = options.application_name(name).extra_float_digits(None).disable_statement_logging();
        Ok(Host { options, mode, without_tls: Arc::default(), link: Arc::clone(link) })
    }
}

/// Returns the hosts and ports that the URL names.
fn hosts(parts: &Parts<'_>, parameters: &Parameters) -> Result<Vec<Named>, String> {
    let several = || format!("the Postgres URL names several hosts as a parameter: {FORM_OF_SEVERAL}");
    let named = [&parameters.host, &parameters.address, &parameters.port].into_iter().flatten();
    if named.into_iter().any(|value| value.contains(',')) {
        return Err(several());
    }
    let all: Vec<&str> = parts.hosts.split(',').collect();
    if all.len() > 1 && all.iter().any(|host| host.is_empty() || host.starts_with(':')) {
        return Err(format!("the Postgres URL has a comma without a host: {FORM_OF_SEVERAL}"));
    }
    let port = parameters.port.as_deref().map(port).transpose()?;
    let read = |text: &str| {
        let (host, own_port) = host_and_port(text)?;
        let host = parameters.address.clone().or_else(|| parameters.host.clone()).or(host);
        Ok((host, port.or(own_port)))
    };
    all.into_iter().map(read).collect()
}

fn host_and_port(text: &str) -> Result<Named, String> {
    let (host, own_port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address are inside its brackets.
        Some((host, own_port)) if !own_port.ends_with(']') => (host, Some(own_port)),
        _ => (text, None),
    };
    let own_port = own_port.filter(|text| !text.is_empty()).map(port).transpose()?;
    let host = decoded(host).map_err(refusal)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_host = match bare {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.starts_with('/') || host.chars().all(plain),
    };
    if !is_host {
        return Err(format!("the Postgres URL has a host that is not a name or an address: {FORM}"));
    }
    let host = bare.map_or(host.clone(), str::to_owned);
    Ok((Some(host).filter(|host| !host.is_empty()), own_port))
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("the Postgres URL has a port that is not a number from 1 to 65535: {FORM}"))
}

#[cfg(test)]
mod tests;
