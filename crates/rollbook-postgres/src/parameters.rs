//! The parameters of a Postgres URL: libpq's, and those of libraries that share the URL with us.
//!
//! Each is used, or known to be harmless when it is left out, or refused by its name with what to write
//! instead. One that is not known at all is left out and logged by its number: a name may be the rest of a
//! password. An unknown parameter that seems to ask for TLS or to check the server's identity is
//! refused, never ignored.

use std::net::IpAddr;

use rollbook_core::url::{Parts, decoded};

use crate::tls::Wishes;

/// Parameters of a URL. No `Debug`, because one may be a password.
#[derive(Default)]
pub(crate) struct Parameters {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) host: Option<String>,
    /// IP address of the host, used without a name lookup.
    pub(crate) address: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) application_name: Option<String>,
    /// Settings of the session: `options` with what libpq takes, or `options[NAME]` with a value.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) tls: Wishes,
    /// Whether the host must accept writes.
    pub(crate) writable: bool,
    /// Whether a pooler is in front of the server: no statement may stay prepared.
    pub(crate) pooled: bool,
    /// Whether it says that there is none.
    pub(crate) declares_no_pooler: bool,
    /// Names of parameters with a value that is not known here.
    pub(crate) wrong_values: Vec<&'static str>,
    /// Names of ignored parameters of other libraries.
    pub(crate) ignored: Vec<&'static str>,
    /// Positions, from one, of unknown parameters.
    pub(crate) unknown: Vec<usize>,
    /// Names in the URL, as written there.
    pub(crate) names: Vec<String>,
}

/// Ignored parameters: Rollbook has a setting of its own for each, or does the same anyway.
const HARMLESS: [&str; 40] = [
    "connect_timeout",
    // Prisma's limit for each of its clients; Rollbook's is database_connections_max.
    "connection_limit",
    "pool_timeout",
    "pool_size",
    "pool_mode",
    "pool_max_conns",
    "pool_min_conns",
    "pool_max_conn_lifetime",
    "pool_max_conn_idle_time",
    "max_pool_size",
    "min_pool_size",
    "max_connections",
    "idle_timeout",
    "max_idle_connection_lifetime",
    "max_connection_lifetime",
    "single_use_connections",
    "schema",
    "currentschema",
    "search_path",
    "statement_timeout",
    "lock_timeout",
    "query_timeout",
    "idle_in_transaction_session_timeout",
    "socket_timeout",
    "sockettimeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcpkeepalive",
    "timezone",
    "datestyle",
    "intervalstyle",
    "fallback_application_name",
    "extra_float_digits",
    "supa",
    "sslcompression",
    "krbsrvname",
    "uselibpqcompat",
];

/// Parameters that take effect by their value alone: (name, values that Rollbook honours, fix for any other value).
const AS_WE_DO: [(&str, &[&str], &str); 11] = [
    (
        "channel_binding",
        &["disable", "prefer"],
        "the driver has no channel binding; write sslmode=verify-full, which proves the server's identity, and leave \
         channel_binding out",
    ),
    (
        "gssencmode",
        &["disable", "prefer"],
        "GSSAPI is not supported; leave it out, and write sslmode=verify-full",
    ),
    ("sslnegotiation", &["postgres"], "leave it out: the ordinary negotiation works with every server"),
    (
        "load_balance_hosts",
        &["disable"],
        "leave it out: of several hosts Rollbook uses the one that takes writes",
    ),
    ("sslsni", &["1"], "leave it out: the server's name is always sent"),
    ("sslcertmode", &["allow", "disable"], "leave it out, and name sslcert and sslkey"),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"], "leave it out: it is TLSv1.2"),
    ("ssl_max_protocol_version", &["TLSv1.3"], "leave it out: it is TLSv1.3"),
    ("client_encoding", &["utf8", "UTF8", "utf-8", "UTF-8", "auto"], "leave it out: it is always UTF8"),
    ("encoding", &["utf8", "UTF8", "utf-8", "UTF-8"], "leave it out: it is always UTF8"),
    ("replication", &["false", "off", "no", "0"], "leave it out"),
];

/// Refused whatever the value: (name, what to do).
const REFUSED: [(&str, &str); 15] = [
    ("require_auth", "leave it out, and write sslmode=verify-full, which proves the server's identity"),
    ("service", "write out what the service file says"),
    ("servicefile", "write out what the service file says"),
    ("passfile", "name the file in the environment, as PGPASSFILE"),
    ("requirepeer", "leave it out"),
    ("gssdelegation", "leave it out"),
    ("gsslib", "leave it out"),
    ("sslcrl", "revocation lists are not read; leave it out"),
    ("sslcrldir", "revocation lists are not read; leave it out"),
    ("sslpassword", "write the key without a password, in a file of mode 600, and name it by sslkey"),
    ("sslidentity", "write certificate and key as PEM, and name them by sslcert and sslkey"),
    ("sslkeylogfile", "leave it out"),
    ("sslfactory", "write sslmode and sslrootcert instead"),
    ("scram_client_key", "write the password instead"),
    ("scram_server_key", "write the password instead"),
];

/// Other libraries' switches for TLS.
const SWITCHES: [&str; 9] =
    ["ssl", "tls", "requiressl", "sslrequire", "require_ssl", "usessl", "ssl_mode", "encrypt", "sslaccept"];

/// Parameters of other libraries about prepared statements behind a pooler: (name, value).
const UNPREPARED: [(&str, &[&str]); 9] = [
    ("pgbouncer", &["true", "1", "yes"]),
    ("prepared_statements", &["false", "0"]),
    ("prepare", &["false", "0"]),
    ("preparethreshold", &["0"]),
    ("statement_cache_size", &["0"]),
    ("statement-cache-capacity", &["0"]),
    ("statement_cache_capacity", &["0"]),
    ("prepared_statement_cache_size", &["0"]),
    ("default_query_exec_mode", &["simple_protocol", "exec"]),
];

/// Values of `pgbouncer` that say that no pooler is there.
const NO_POOLER: [&str; 3] = ["false", "0", "no"];

/// Parts of an unknown name that show that the parameter is about TLS or identity.
const ABOUT_TLS: [&str; 8] = ["ssl", "tls", "secur", "encrypt", "cert", "verif", "trust", "auth"];

const TARGETS: [&str; 3] = ["any", "read-write", "primary"];

impl Parameters {
    /// Parses the parameters of a URL.
    ///
    /// # Errors
    /// Parameters can't be supported: the text has all of them. It contains no value and no unknown name.
    pub(crate) fn of(parts: &Parts<'_>) -> Result<Self, String> {
        let mut parameters = Self::default();
        let (mut seen, mut faults) = (Vec::new(), Vec::new());
        for (number, (name, value)) in (1..).zip(parts.parameters()) {
            let name = decoded(name).map_err(|error| format!("the Postgres URL {error}"))?;
            let value = decoded(value).map_err(|error| format!("the Postgres URL {error}"))?;
            if seen.contains(&name) && name != "options" {
                faults.push(format!("parameter {number} of the Postgres URL occurs twice: keep one of them"));
                continue;
            }
            faults.extend(parameters.take(number, &name, value).err());
            seen.push(name);
        }
        parameters.names = seen;
        if faults.is_empty() { Ok(parameters) } else { Err(faults.join("; ")) }
    }

    /// Returns whether the URL says how connections are encrypted.
    pub(crate) fn names_tls_mode(&self) -> bool {
        let modes = ["sslmode", "ssl-mode"];
        self.names.iter().any(|name| {
            let name = name.to_ascii_lowercase();
            modes.contains(&&*name) || SWITCHES.contains(&&*name)
        })
    }

    /// Parses one parameter; errors about an unknown one give its `number`.
    pub(crate) fn take(&mut self, number: usize, name: &str, value: String) -> Result<(), String> {
        match name {
            "user" | "username" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" | "database" => self.database = Some(value),
            "host" => self.host = Some(value),
            "hostaddr" if value.parse::<IpAddr>().is_ok() => self.address = Some(value),
            "hostaddr" => {
                return Err("hostaddr in the Postgres URL is not an IP address: write host".to_owned());
            }
            "port" => self.port = Some(value),
            "application_name" => self.application_name = Some(value.replace('+', " ")),
            "sslmode" | "ssl-mode" => self.tls.mode(&value)?,
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => self.tls.root(value),
            "sslcert" | "ssl-cert" => self.tls.certificate = Some(value),
            "sslkey" | "ssl-key" => self.tls.key = Some(value),
            "target_session_attrs" => {
                if !TARGETS.contains(&&*value) {
                    let targets = TARGETS.join(", ");
                    return Err(format!(
                        "{name} in the Postgres URL must be one of {targets}: Rollbook writes"
                    ));
                }
                self.writable = value != "any";
            }
            _ if name == "options" || (name.starts_with("options[") && name.ends_with(']')) => {
                self.options.push((name.to_owned(), value.replace('+', " ")));
            }
            _ => return self.take_others(number, name, &value),
        }
        Ok(())
    }

    /// Handles parameters that libpq does not know, or Rollbook does not honour. Other libraries write some
    /// names in other cases.
    fn take_others(&mut self, number: usize, name: &str, value: &str) -> Result<(), String> {
        let name = name.to_ascii_lowercase();
        let refusal = |name: &str, fix: &str| Err(format!("{name} in the Postgres URL can't be kept: {fix}"));
        if let Some(name) = SWITCHES.into_iter().find(|known| *known == name) {
            return self.tls.switch(name, value);
        }
        if let Some((name, values)) = UNPREPARED.into_iter().find(|(known, _)| *known == name) {
            self.pooled |= values.contains(&value);
            match (values.contains(&value), name) {
                (true, _) => {}
                (false, "pgbouncer") if NO_POOLER.contains(&value) => {
                    self.declares_no_pooler = true;
                    self.ignored.push(name);
                }
                (false, "pgbouncer") => self.wrong_values.push(name),
                (false, _) => self.ignored.push(name),
            }
            return Ok(());
        }
        if let Some((name, _, fix)) =
            AS_WE_DO.into_iter().find(|(known, values, _)| *known == name && !values.contains(&value))
        {
            return refusal(name, fix);
        }
        if let Some((name, fix)) = REFUSED.into_iter().find(|(known, _)| *known == name) {
            return refusal(name, fix);
        }
        if AS_WE_DO.into_iter().any(|(known, ..)| known == name) {
            return Ok(());
        }
        if name == "uselibpqcompat" && value != "true" {
            return refusal("uselibpqcompat", "leave it out, and write sslmode=verify-full");
        }
        if let Some(name) = HARMLESS.into_iter().find(|known| *known == name) {
            self.ignored.push(name);
            return Ok(());
        }
        if ABOUT_TLS.iter().any(|word| name.contains(word)) {
            return Err(format!(
                "parameter {number} of the Postgres URL is about TLS or the server's identity, and is not known here: \
                 write sslmode, sslrootcert, sslcert and sslkey, and leave it out"
            ));
        }
        self.unknown.push(number);
        Ok(())
    }
}
