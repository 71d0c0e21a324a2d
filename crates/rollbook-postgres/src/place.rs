//! Where Postgres is: from a URL to something that can be connected to.

use std::fmt;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

/// The parameters of a URL that have a meaning here; `options[…]` beside them.
const PARAMETERS: [&str; 17] = [
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
];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

const FORM: &str = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE";

/// Where Postgres is. Shown without user and password.
#[derive(Clone)]
pub(crate) struct Place {
    /// How to connect.
    pub(crate) options: PgConnectOptions,
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
        let (mut kept, mut ignored) = (Vec::new(), Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if name == "sslmode" && !SSL_MODES.contains(&value) {
                return Err(format!("sslmode in the Postgres URL must be one of {}", SSL_MODES.join(", ")));
            }
            if PARAMETERS.contains(&name) || name.starts_with("options[") {
                kept.push(parameter);
            } else {
                ignored.push(name.to_owned());
            }
        }
        let url = format!("{address}?{}", kept.join("&"));
        // The parser's own words may repeat what it could not read.
        let options: PgConnectOptions = url.parse().map_err(|_| {
            format!("the Postgres URL can't be read: {FORM}, with %XX for special characters in the password")
        })?;
        if options.get_host().contains(',') {
            return Err(
                "the Postgres URL names several hosts: name one, or what stands before them".to_owned()
            );
        }
        let name = options.get_application_name().unwrap_or("rollbook").to_owned();
        let options = options.application_name(&name).extra_float_digits(None).disable_statement_logging();
        Ok((Self { options }, ignored))
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        self.options.get_database().unwrap_or(self.user())
    }

    /// Our name there.
    pub(crate) fn user(&self) -> &str {
        self.options.get_username()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.options.get_socket() {
            Some(socket) => write!(f, "Postgres in {}", socket.display()),
            None => write!(f, "Postgres at {}:{}", self.options.get_host(), self.options.get_port()),
        }
    }
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
            "postgres://me:ImASecret@a,b/x",
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
    fn a_socket_is_a_place_too() {
        let (place, _) = Place::parse("postgres:///app?host=/run/postgresql").expect("a URL");
        assert_eq!(place.to_string(), "Postgres in /run/postgresql");
    }
}
