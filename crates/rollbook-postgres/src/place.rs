//! Where Postgres is: from a URL to something that can be connected to.

use std::fmt;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

/// The parameters of a URL that have a meaning here; `options[…]` beside them.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// What `target_session_attrs` may ask for: Rollbook writes.
const TARGETS: [&str; 3] = ["any", "read-write", "primary"];

const FORM: &str = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE";
const FORM_OF_SEVERAL: &str = "write postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE";

/// Where Postgres is. Shown without user and password.
#[derive(Clone)]
pub(crate) struct Place {
    /// How to connect, to each of its hosts; at least one.
    pub(crate) hosts: Vec<PgConnectOptions>,
    /// Whether a new connection must be to a host that takes writes: where there are several, and where the
    /// URL says so.
    pub(crate) writable: bool,
}

impl Place {
    /// Reads a URL. Also returns the names of the parameters that have no meaning here: they belong to
    /// other libraries that share the URL, and are left out.
    ///
    /// # Errors
    /// In words for a person, without a word of the URL.
    pub(crate) fn parse(url: &str) -> Result<(Self, Vec<String>), String> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(format!("the URL is not Postgres's: {FORM}"));
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut kept, mut ignored, mut writable) = (Vec::new(), Vec::new(), false);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" => one_of(name, value, &SSL_MODES)?,
                "target_session_attrs" => one_of(name, value, &TARGETS)?,
                _ => {}
            }
            if name == "target_session_attrs" {
                writable |= value != "any";
            } else if PARAMETERS.contains(&name) || name.starts_with("options[") {
                kept.push(parameter);
            } else {
                ignored.push(name.to_owned());
            }
        }
        let query = kept.join("&");
        let urls = each_host(address)?.into_iter().map(|address| format!("{address}?{query}"));
        let hosts = urls.map(|url| host(&url)).collect::<Result<Vec<_>, _>>()?;
        Ok((Self { writable: writable || hosts.len() > 1, hosts }, ignored))
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        self.hosts[0].get_database().unwrap_or(self.user())
    }

    /// Our name there.
    pub(crate) fn user(&self) -> &str {
        self.hosts[0].get_username()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, host) in self.hosts.iter().enumerate() {
            let before = if number == 0 { "Postgres" } else { "," };
            match host.get_socket() {
                Some(socket) => write!(f, "{before} in {}", socket.display())?,
                None if number == 0 => write!(f, "{before} at {}:{}", host.get_host(), host.get_port())?,
                None => write!(f, "{before} {}:{}", host.get_host(), host.get_port())?,
            }
        }
        Ok(())
    }
}

fn one_of(name: &str, value: &str, all: &[&str]) -> Result<(), String> {
    if all.contains(&value) {
        return Ok(());
    }
    Err(format!("{name} in the Postgres URL must be one of {}", all.join(", ")))
}

/// The address of each host that an address names: they are parted by commas, between `@` and `/`.
fn each_host(address: &str) -> Result<Vec<String>, String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty() || host.starts_with(':')) {
        return Err(format!("the Postgres URL has a comma without a host: {FORM_OF_SEVERAL}"));
    }
    Ok(hosts.into_iter().map(|host| format!("{scheme}://{user}{host}{path}")).collect())
}

fn host(url: &str) -> Result<PgConnectOptions, String> {
    // The parser's own words may repeat what it could not read.
    let options: PgConnectOptions = url.parse().map_err(|_| {
        format!("the Postgres URL can't be read: {FORM}, with %XX for special characters in the password")
    })?;
    if options.get_host().contains(',') {
        return Err(format!("the Postgres URL names several hosts as a parameter: {FORM_OF_SEVERAL}"));
    }
    let name = options.get_application_name().unwrap_or("rollbook").to_owned();
    Ok(options.application_name(&name).extra_float_digits(None).disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Place::parse(url) {
            Ok((place, _)) => panic!("{url} is taken as {place}"),
            Err(text) => text,
        }
    }

    #[test]
    fn a_place_shows_host_and_port_and_nothing_of_whom() {
        let (place, ignored) = Place::parse("postgres://me:s%40cret@db.example:6543/app").expect("a URL");
        assert_eq!(place.to_string(), "Postgres at db.example:6543");
        assert_eq!((place.user(), place.database()), ("me", "app"));
        assert_eq!(ignored, [""; 0]);
    }

    #[test]
    fn what_is_no_url_of_postgres_is_refused_without_repeating_it() {
        for url in [
            "mysql://me:ImASecret@h/x",
            "postgres://me:ImASecret@h:none/x",
            "postgres://me:Im#ASecret@h/x",
            "postgres://me:ImASecret@a,/x",
            "postgres://me:ImASecret@a,:1/x",
            "postgres://me@a,b:none/ImASecret",
            "postgres://me:ImASecret@a/x?host=a,b",
            "postgres://me:ImASecret@a/x?host=a%2Cb",
            "postgres://me:ImASecret@a/x?port=1,2",
            "postgres://h/x?target_session_attrs=ImASecret",
            "postgres://h/x?sslmode=ImASecret",
            "postgres://h/x?port=ImASecret",
        ] {
            let text = refusal(url);
            assert!(!text.contains("ASecret"), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn parameters_of_other_libraries_are_left_out_and_named() {
        let url = "postgres://me@h/x?sslmode=require&channel_binding=require&pgbouncer=true";
        let (_, ignored) = Place::parse(url).expect("a URL");
        assert_eq!(ignored, ["channel_binding", "pgbouncer"]);
    }

    #[test]
    fn several_hosts_share_the_rest_of_the_url_and_one_that_takes_writes_is_looked_for() {
        let (place, ignored) =
            Place::parse("postgres://me:a,b@[::1]:1,db.example,10.0.0.7:3/app?sslmode=disable")
                .expect("a URL");
        assert_eq!(place.to_string(), "Postgres at [::1]:1, db.example:5432, 10.0.0.7:3");
        assert_eq!((place.user(), place.database(), place.writable), ("me", "app", true));
        assert_eq!(ignored, [""; 0]);
        for host in &place.hosts {
            assert_eq!((host.get_username(), host.get_database()), ("me", Some("app")));
        }
    }

    #[test]
    fn one_host_must_take_writes_at_once_if_the_url_says_so() {
        for (url, writable) in [
            ("postgres://me@h/x", false),
            ("postgres://me@h/x?target_session_attrs=any", false),
            ("postgres://me@h/x?target_session_attrs=read-write", true),
            ("postgres://me@h/x?target_session_attrs=primary", true),
        ] {
            let (place, ignored) = Place::parse(url).expect("a URL");
            assert_eq!((place.writable, place.hosts.len(), ignored.len()), (writable, 1, 0), "{url}");
        }
        assert!(refusal("postgres://me@h/x?target_session_attrs=standby").contains("read-write"));
    }

    #[test]
    fn a_socket_is_a_place_too() {
        let (place, _) = Place::parse("postgres:///app?host=/run/postgresql").expect("a URL");
        assert_eq!(place.to_string(), "Postgres in /run/postgresql");
    }
}
