//! Signs that a pooler stands before the server, although no setting says so.
//!
//! A pooler in transaction mode gives the next transaction another session. There a prepared statement is missing, or is
//! that of another client: its answer then looks like a schema with other columns. So an error of this kind names the
//! pooler, if there is a sign of one.

/// Fix for a pooler that no setting names.
pub(crate) const FIX: &str = "set pgbouncer = yes (ROLLBOOK_PGBOUNCER=yes, or pgbouncer=true in the URL), or write the \
                              database's direct URL, without the pooler";

/// Sign: the server refused the settings of a session.
pub(crate) const REFUSED_SETTINGS: &str = "the connection refused the settings of a session, as poolers do";

/// Returns the sign in the name and the port of a host.
pub(crate) fn sign(host: &str, port: u16) -> Option<&'static str> {
    let host = host.to_ascii_lowercase();
    if host.contains("-pooler.") {
        return Some("a host with -pooler in its name is a pooler in transaction mode at Neon and others");
    }
    match port {
        6543 => Some("port 6543 is that of a pooler in transaction mode at Supabase and others"),
        6432 => Some("port 6432 is PgBouncer's"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolers_are_recognized_by_the_names_and_ports_of_providers() {
        for (host, port, is_pooler) in [
            ("ep-cool-1-pooler.eu-central-1.aws.neon.tech", 5432, true),
            ("EP-COOL-1-POOLER.eu-central-1.aws.neon.tech", 5432, true),
            ("ep-cool-1.eu-central-1.aws.neon.tech", 5432, false),
            ("aws-0-eu-central-1.pooler.supabase.com", 6543, true),
            // Supabase's pooler in session mode.
            ("aws-0-eu-central-1.pooler.supabase.com", 5432, false),
            ("db.ref.supabase.co", 6543, true),
            ("db.ref.supabase.co", 5432, false),
            ("pgbouncer.internal", 6432, true),
            ("127.0.0.1", 5432, false),
        ] {
            assert_eq!(sign(host, port).is_some(), is_pooler, "{host}:{port}");
        }
    }
}
