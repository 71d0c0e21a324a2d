//! Encryption of connections, from the URL's parameters of libpq or of another library.
//!
//! * To a server on another machine the default is `require`: an attacker on the network must not get the
//!   password by answering that the server has no TLS. On the loopback it is `prefer`; a Unix socket needs no
//!   TLS.
//! * A certificate authority in the URL is used: `require` with `sslrootcert` is `verify-ca`, as in libpq.
//! * A parameter that asks for TLS is never ignored, whatever its name (decision 0180).

use rollbook_core::protection::Protection;
use sqlx::postgres::PgSslMode;

/// TLS mode of connections to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Clear text.
    Disable,
    /// TLS if the server has it, else clear text. `allow` is this too: the stronger way is tried first.
    Prefer,
    /// TLS without verification of the certificate.
    Require,
    /// TLS with a certificate by a trusted authority.
    VerifyCa,
    /// TLS with a certificate by a trusted authority, for the host's name.
    VerifyFull,
}

impl Mode {
    /// Values of `sslmode`; `no-verify` is node-postgres's.
    const NAMES: [(&'static str, Self); 7] = [
        ("disable", Self::Disable),
        ("allow", Self::Prefer),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("no-verify", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// Returns the protection of a connection in this mode; `None` if the mode does not determine it.
    pub(crate) const fn protection(self) -> Option<Protection> {
        match self {
            Self::Disable => Some(Protection::Clear),
            Self::Prefer => None,
            Self::Require => Some(Protection::Unverified),
            Self::VerifyCa => Some(Protection::VerifiedIssuer),
            Self::VerifyFull => Some(Protection::Verified),
        }
    }

    pub(crate) const fn to_sqlx(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Prefer => PgSslMode::Prefer,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }

    /// Returns the default mode, if neither the URL nor the environment names one.
    pub(crate) const fn default_of(on_this_machine: bool) -> Self {
        if on_this_machine { Self::Prefer } else { Self::Require }
    }
}

/// Parameters of a URL about TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// `sslmode`.
    mode: Option<Mode>,
    /// Whether certificates are not verified, whatever other parameters say: `sslmode=no-verify`.
    no_verify: bool,
    /// Parameter of another library that asks for TLS.
    wanted_by: Option<&'static str>,
    /// Parameter that asks for clear text.
    refused_by: Option<&'static str>,
    /// Parameter that asks for verification of the certificate and its host name.
    verified_by: Option<&'static str>,
    /// Certificates of authorities.
    pub(crate) root: Option<String>,
    /// Client certificate.
    pub(crate) certificate: Option<String>,
    /// Key of the client certificate.
    pub(crate) key: Option<String>,
}

impl Wishes {
    /// Takes `sslmode`.
    pub(crate) fn mode(&mut self, value: &str) -> Result<(), String> {
        let Some((_, mode)) = Mode::NAMES.into_iter().find(|(name, _)| *name == value) else {
            let names = Mode::NAMES.map(|(name, _)| name).join(", ");
            return Err(format!("sslmode in the Postgres URL must be one of {names}"));
        };
        self.no_verify = value == "no-verify";
        self.mode = Some(mode);
        Ok(())
    }

    /// Takes `ssl=true` and its like, of libraries other than libpq.
    pub(crate) fn switch(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        match value {
            "true" | "1" | "yes" | "on" | "require" | "required" => self.wanted_by = Some(name),
            "false" | "0" | "no" | "off" | "disable" => self.refused_by = Some(name),
            "verify-full" | "strict" => self.verified_by = Some(name),
            "no-verify" if name == "ssl" => {
                self.wanted_by = Some(name);
                self.no_verify = true;
            }
            // What is done with certificates by default, not a wish for TLS.
            "accept_invalid_certs" if name == "sslaccept" => {}
            _ => {
                return Err(format!(
                    "{name} in the Postgres URL has a value that is not known: write sslmode=require, or \
                     sslmode=verify-full"
                ));
            }
        }
        Ok(())
    }

    /// Takes `sslrootcert`. `system` means the authorities that the system trusts, and then names are checked.
    pub(crate) fn root(&mut self, value: String) {
        if value == "system" {
            self.verified_by = Some("sslrootcert=system");
        } else {
            self.root = Some(value);
        }
    }

    /// Returns the mode; `None` if no parameter determines it.
    ///
    /// # Errors
    /// The parameters contradict each other.
    pub(crate) fn resolve(&self) -> Result<Option<Mode>, String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("the Postgres URL has one of sslcert and sslkey without the other: name both (a \
                 certificate authority is sslrootcert)"
                .to_owned());
        }
        let wanted_by = self.verified_by.or(self.wanted_by);
        let refused_by = match self.mode {
            Some(Mode::Disable) => Some("sslmode=disable"),
            _ => self.refused_by,
        };
        let is_wanted = wanted_by.or(match self.mode {
            None | Some(Mode::Disable) => None,
            Some(_) => Some("sslmode"),
        });
        if let (Some(wanted), Some(refused)) = (is_wanted, refused_by) {
            return Err(format!(
                "{wanted} and {refused} in the Postgres URL contradict each other: keep one of them"
            ));
        }
        if refused_by.is_some() {
            return Ok(Some(Mode::Disable));
        }
        if self.no_verify {
            return Ok(Some(Mode::Require));
        }
        if self.verified_by.is_some() {
            return Ok(Some(Mode::VerifyFull));
        }
        let mode = match (self.mode, wanted_by) {
            (None | Some(Mode::Prefer), Some(_)) => Some(Mode::Require),
            (mode, _) => mode,
        };
        // A certificate that is named is there to be used.
        Ok(match mode {
            None | Some(Mode::Require) if self.root.is_some() => Some(Mode::VerifyCa),
            mode => mode,
        })
    }
}

/// Error text of sqlx for a server that answers that it has no TLS.
const NO_TLS: &str = "server does not support TLS";

/// Returns whether the server has said that it has no TLS.
pub(crate) fn is_without_tls(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Tls(error) if error.to_string() == NO_TLS)
}

/// Returns why there is no TLS, with the fix. The text of the error is rustls's and contains no secret.
pub(crate) fn failed(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let said = error.to_string();
    if said == NO_TLS {
        return "no TLS: the server has none, and without it others on the network could read the password; turn it \
                on at the server (ssl = on), or write sslmode=disable in the URL where you trust the network (to a \
                server on another machine the default is sslmode=require)"
            .to_owned();
    }
    format!("no TLS: {said}; see sslmode and sslrootcert in the URL, and ssl on the server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_tls_off_this_machine() {
        assert_eq!((Mode::default_of(true), Mode::default_of(false)), (Mode::Prefer, Mode::Require));
    }
}
