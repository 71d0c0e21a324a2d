//! Variables of the environment that libpq reads (`PG…`): they supply parameters that the URL leaves out.
//!
//! One rule holds for all: a variable counts as the parameter of the same meaning in the URL, so that it
//! takes effect, or is harmless, or is refused by its name. If the URL has the parameter, the variable is
//! ignored. sqlx reads some of them by itself, and takes a value that it does not understand for none
//! at all: that is why they are read here first.

use crate::parameters::Parameters;

/// Variables, and the parameter of the same meaning.
const VARIABLES: [(&str, &str); 23] = [
    ("PGSSLMODE", "sslmode"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGGSSLIB", "gsslib"),
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGCLIENTENCODING", "client_encoding"),
];
/// Variables that sqlx reads by itself if the URL leaves them out. The rest of libpq's (`PGCONNECT_TIMEOUT`,
/// `PGTZ`, …) is about matters that Rollbook decides by settings of its own.
const READ_BY_SQLX: [(&str, &str); 3] = [("PGHOST", "host"), ("PGHOSTADDR", "host"), ("PGPORT", "port")];
/// Parameters about the encryption of a connection: if the URL has one, `PGSSLMODE` is ignored.
const MODES: [&str; 2] = ["sslmode", "requiressl"];

/// Finds the value of a variable that is set and not empty.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
#[expect(
    clippy::disallowed_methods,
    reason = "sqlx reads these variables itself: a second reader of them could differ from sqlx"
)]
pub(crate) fn of_process(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

impl Parameters {
    /// Applies the variables for parameters that the URL leaves out. `names_host` and `names_port` say whether
    /// the URL has them.
    ///
    /// # Errors
    /// One can't be done; names the variable, without its value.
    pub(crate) fn complete(
        &mut self,
        variables: Variables<'_>,
        (names_host, names_port): (bool, bool),
    ) -> Result<(), String> {
        let in_url = self.names.clone();
        let names_mode = self.names_tls_mode();
        for (variable, name) in VARIABLES {
            let Some(value) = variables(variable) else { continue };
            let is_named = in_url.iter().any(|known| known.replace('-', "").eq_ignore_ascii_case(name));
            let is_older = name == "requiressl" && variables("PGSSLMODE").is_some();
            if is_named || (names_mode && MODES.contains(&name)) || is_older {
                continue;
            }
            self.take(0, name, value).map_err(|why| {
                why.replace("in the Postgres URL", &format!("in the environment ({variable})"))
            })?;
        }
        for (variable, name) in READ_BY_SQLX {
            let Some(value) = variables(variable) else { continue };
            let (is_named, is_right) = match name {
                "port" => (names_port, value.parse::<u16>().is_ok()),
                _ => (names_host, !value.contains(',')),
            };
            if !is_named && !is_right {
                return Err(format!(
                    "{name} in the environment ({variable}) can't be used: write one {name}, or write \
                     postgres://USER:PASSWORD@HOST:PORT/DATABASE as the URL"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::address::Address;
    use crate::tls::Mode;

    fn mode(query: &str, variables: &[(&str, &str)]) -> Result<Mode, String> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let url = format!("postgres://me@db.example/app?{query}");
        Address::parse_with(&url, &find).map(|(address, _)| address.hosts[0].mode())
    }

    #[test]
    fn a_variable_takes_effect_where_the_url_leaves_its_matter_out() {
        for (query, variables, expected) in [
            ("", &[("PGSSLMODE", "verify-full")][..], Mode::VerifyFull),
            ("", &[("PGSSLMODE", "disable")], Mode::Disable),
            ("", &[("PGSSLMODE", "prefer")], Mode::Prefer),
            ("", &[("PGREQUIRESSL", "1")], Mode::Require),
            ("", &[("PGSSLMODE", "disable"), ("PGREQUIRESSL", "1")], Mode::Disable),
            ("", &[], Mode::Require),
            ("sslmode=require", &[("PGSSLMODE", "disable")], Mode::Require),
            ("sslmode=disable", &[("PGSSLMODE", "bogus")], Mode::Disable),
            ("ssl=true", &[("PGSSLMODE", "disable")], Mode::Require),
        ] {
            assert_eq!(mode(query, variables), Ok(expected), "{query} {variables:?}");
        }
    }

    #[test]
    fn a_variable_that_can_not_be_kept_is_refused_by_its_name_and_never_quoted() {
        for (variable, value) in [
            ("PGSSLMODE", "bogus"),
            ("PGSSLMODE", "REQUIRE"),
            ("PGREQUIRESSL", "bogus"),
            ("PGCHANNELBINDING", "require"),
            ("PGREQUIREAUTH", "bogus"),
            ("PGREQUIREPEER", "bogus"),
            ("PGGSSENCMODE", "require"),
            ("PGSSLNEGOTIATION", "direct"),
            ("PGSSLCRL", "/bogus"),
            ("PGSERVICE", "bogus"),
            ("PGTARGETSESSIONATTRS", "standby"),
            ("PGLOADBALANCEHOSTS", "random"),
            ("PGCLIENTENCODING", "latin1"),
        ] {
            let text = mode("", &[(variable, value)]).expect_err(variable);
            let named = format!("in the environment ({variable})");
            assert!(text.contains(&named) && !text.contains("bogus") && !text.contains("URL"), "{text}");
        }
    }

    #[test]
    fn a_host_or_port_that_sqlx_would_misread_is_refused_only_where_the_url_has_none() {
        let parse = |url: &str, variable: &str, value: &str| {
            Address::parse_with(url, &|name: &str| (name == variable).then(|| value.to_owned())).map(|_| ())
        };
        let (named, bare) = ("postgres://me@db.example:5432/app", "postgres:///app");
        for (variable, value) in [("PGPORT", "bogus"), ("PGPORT", "70000"), ("PGHOST", "a,b")] {
            assert!(parse(bare, variable, value).expect_err(variable).contains(variable));
            assert_eq!(parse(named, variable, value), Ok(()), "{variable}");
        }
        assert_eq!(parse(bare, "PGPORT", "5433"), Ok(()));
    }
}
