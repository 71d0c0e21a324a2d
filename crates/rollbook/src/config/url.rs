//! URLs of queue and store. No text may show their passwords.

use std::fmt;
use std::path::{Path, PathBuf};

use rollbook_core::url::Parts;

use super::values::{self, Wrong, wrong};

/// Place of a queue or a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A server: Redis for the queue, Postgres for the store.
    Server(ServerUrl),
}

impl Place {
    /// Returns the path of the file, if the place is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Server(_) => None,
        }
    }

    /// Returns the URL of the server, if the place is one.
    pub(crate) fn server(&self) -> Option<&ServerUrl> {
        match self {
            Self::Sqlite(_) => None,
            Self::Server(url) => Some(url),
        }
    }
}

/// URL of a server, which may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl(String);

impl ServerUrl {
    /// Returns the whole URL, for the connection.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the scheme asks for TLS. A Postgres URL asks for it in a parameter.
    pub(crate) fn is_redis_tls(&self) -> bool {
        self.0.starts_with("rediss")
    }
}

impl fmt::Debug for ServerUrl {
    /// Shows the URL without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

/// Role of a URL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The queue.
    Queue,
    /// The store.
    Store,
}

/// Schemes of Redis. The adapter checks the content of `redis+sentinel://` and `redis+cluster://`.
const REDIS: [&str; 6] =
    ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
const POSTGRES: [&str; 2] = ["postgres", "postgresql"];

impl Role {
    const fn fix(self) -> &'static str {
        match self {
            Self::Queue => "write redis://HOST:PORT, rediss://HOST:PORT or sqlite://PATH",
            Self::Store => "write postgres://USER@HOST/DATABASE or sqlite://PATH",
        }
    }

    /// Returns whether servers of this role have this scheme.
    fn serves(self, scheme: &str) -> bool {
        match self {
            Self::Queue => REDIS.contains(&scheme),
            Self::Store => POSTGRES.contains(&scheme),
        }
    }

    /// Returns the problem with a URL of the other role's server.
    const fn refusal(self) -> (&'static str, &'static str) {
        match self {
            Self::Queue => (
                "is the URL of a Postgres, which can't be the queue",
                "it belongs in database_url; the queue is on Redis, or in a file: sqlite://PATH",
            ),
            Self::Store => (
                "is the URL of a Redis, which can't be the store",
                "it belongs in queue_url; the store is on Postgres, or in a file: sqlite://PATH",
            ),
        }
    }
}

/// Parses the place of a queue or a store. No error quotes the URL.
pub(crate) fn place(text: &str, role: Role) -> Result<Place, Wrong> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong("is not a valid URL", role.fix()));
    };
    let other = if role == Role::Queue { Role::Store } else { Role::Queue };
    if let (true, Err(error)) = (scheme != "sqlite", Parts::of(text)) {
        return Err(wrong(error.to_string(), role.fix()));
    }
    match scheme {
        "sqlite" if rest.is_empty() => Err(wrong("has no path", role.fix())),
        "sqlite" if rest.contains(['?', '#']) => Err(wrong("has more than a path", role.fix())),
        "sqlite" => values::path(rest, "file")
            .map(Place::Sqlite)
            .map_err(|_| wrong("has a URL, a key or a password in place of the path of a file", role.fix())),
        _ if role.serves(scheme) && rest.is_empty() => Err(wrong("names no host", role.fix())),
        _ if role.serves(scheme) => Ok(Place::Server(ServerUrl(text.to_owned()))),
        _ if other.serves(scheme) => {
            let (what, fix) = role.refusal();
            Err(wrong(what, fix))
        }
        "prisma" | "prisma+postgres" if role == Role::Store => Err(wrong(
            "is the URL of Prisma Accelerate, which does not speak Postgres's protocol",
            "write the direct URL of the database, which Prisma calls directUrl",
        )),
        _ if role == Role::Store && is_library_scheme(scheme) => Err(wrong(
            "begins with the scheme of a library",
            "write postgresql:// and leave the rest as it is",
        )),
        _ => Err(wrong("begins with no known scheme", role.fix())),
    }
}

/// Returns whether a library writes Postgres URLs with this scheme: `SQLAlchemy`, Django, JDBC.
fn is_library_scheme(scheme: &str) -> bool {
    matches!(scheme, "postgis" | "jdbc:postgresql" | "psql" | "pgsql") || scheme.starts_with("postgresql+")
}

/// Returns whether a URL holds a password: before the host, or in a parameter with a name like `password`.
pub(crate) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let parameters = rest.split_once('?').map_or("", |(_, parameters)| parameters).to_ascii_lowercase();
    rest.rsplit_once('@').is_some_and(|(info, _)| info.contains(':')) || parameters.contains("pass")
}

/// Returns the URL as it may be shown: without the part before the last `@` and without parameters. If the
/// URL can be read in two ways, only the scheme is left.
pub(crate) fn without_password(url: &str) -> String {
    if let Some(path) = url.strip_prefix("sqlite://") {
        let is_path = values::path(path, "file").is_ok();
        return format!("sqlite://{}", if is_path { path } else { "…" });
    }
    let Ok(parts) = Parts::of(url) else {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let is_name =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+');
        return if is_name { format!("{scheme}://…") } else { "…".to_owned() };
    };
    let Parts { scheme, hosts, path, query, fragment, .. } = parts;
    let login = if parts.login.is_some() { "…@" } else { "" };
    let slash = if path.is_empty() { "" } else { "/" };
    let rest = if query.is_empty() && fragment.is_none() { "" } else { "?…" };
    format!("{scheme}://{login}{hosts}{slash}{path}{rest}")
}

/// Returns the URL of an endpoint as it may be shown: scheme, host and port. Its path may be a secret.
pub(crate) fn without_path(url: &str) -> String {
    match Parts::of(url) {
        Ok(Parts { scheme, hosts, login: None, .. }) => format!("{scheme}://{hosts}/…"),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_file_or_a_redis_and_a_store_a_file_or_a_postgres() {
        assert_eq!(place("sqlite:///var/q.db", Role::Queue), Ok(Place::Sqlite("/var/q.db".into())));
        for url in ["redis://h", "rediss://h:1/2", "redis+sentinel://a,b/x", "rediss+cluster://a:1,b:2"] {
            let place = place(url, Role::Queue).expect(url);
            assert_eq!(place.server().map(ServerUrl::as_str), Some(url));
        }
        for url in ["postgres://me@h/x", "postgresql://h:5432/x"] {
            let place = place(url, Role::Store).expect(url);
            assert_eq!(place.server().map(ServerUrl::as_str), Some(url));
        }
    }

    #[test]
    fn a_server_of_the_other_role_is_refused_with_the_setting_where_it_belongs() {
        let refusal = place("redis://u:secret@h:1", Role::Store).expect_err("no store");
        assert!(refusal.what.contains("Redis") && refusal.fix.contains("queue_url"), "{refusal:?}");
        let refusal = place("postgres://u:secret@h:1", Role::Queue).expect_err("no queue");
        assert!(refusal.what.contains("Postgres") && refusal.fix.contains("database_url"), "{refusal:?}");
    }

    #[test]
    fn a_text_that_is_not_a_url_of_a_backend_is_refused_and_never_quoted() {
        for text in [
            "secret.db",
            "sqlite://",
            "sqlite://secret.db?mode=ro",
            "sqlite://u:secret@h/db",
            "sqlite://postgres://u:secret@h/db",
            "sqlite:///postgres://u:secret@h/db",
            "sqlite:postgres://u:secret@h/db",
            "sqlite://whsec_secret",
            "mysql://u:secret@h",
            "redis://",
            "redis://u:12?secret@h",
            "redis://u:12/secret@h",
            "redis://u:12#secret@h",
            "redis://u:sec\nsecret@h",
        ] {
            let refusal = place(text, Role::Queue).expect_err(text);
            assert!(!format!("{refusal:?}").contains("secret"), "{refusal:?}");
        }
    }

    #[test]
    fn a_raw_special_character_in_the_password_is_refused_with_the_way_to_write_it() {
        for (url, role) in [("redis://u:12?x@h", Role::Queue), ("postgres://u:a/b@h/x", Role::Store)] {
            let refusal = place(url, role).expect_err(url);
            assert!(refusal.what.contains("percent-encode") && refusal.what.contains("%2F"), "{refusal:?}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://me:p@ss@db/x?password=y", "postgres://…@db/x?…"),
            ("postgres://db/x?password=s@cret", "postgres://…"),
            ("postgres://me:s?cret@db/x", "postgres://…"),
            ("postgres://me:12/cret@db/x", "postgres://…"),
            ("postgres://me:12#cret@db/x", "postgres://…"),
            ("https://api.example/v1?key=secret#x", "https://api.example/v1?…"),
            ("redis://:secret@h:6379/0", "redis://…@h:6379/0"),
            ("me:secret@h", "…"),
            ("SECRET://h\n", "…"),
            ("sqlite://q.db", "sqlite://q.db"),
            ("sqlite://u:secret@h/db", "sqlite://…"),
            ("sqlite:///postgres://u:secret@h", "sqlite://…"),
        ] {
            assert_eq!(without_password(url), shown);
        }
        let place = place("redis://:secret@h", Role::Queue).expect("a URL");
        assert_eq!(format!("{place:?}"), "Server(redis://…@h)");
    }

    #[test]
    fn a_password_is_found_before_the_host_and_among_the_parameters() {
        for url in ["redis://:x@h", "postgres://h/x?password=y", "redis+sentinel://h/x?sentinel_Password=y"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["redis://h:6379", "postgres://me@h:1/x?sslmode=require", "sqlite://q.db"] {
            assert!(!has_password(url), "{url}");
        }
    }
}
