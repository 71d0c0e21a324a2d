//! How the bytes between this process and a backend are protected on their way.

use std::fmt;
use std::net::IpAddr;

/// How the bytes between this process and a backend are protected on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// They do not leave this machine: a file, or a Unix socket.
    Local,
    /// Clear text by the loopback: it does not leave this machine either.
    Loopback,
    /// TLS; the certificate is by a trusted authority and for the server's name.
    Verified,
    /// TLS; the certificate is by a trusted authority, its name is not checked.
    VerifiedIssuer,
    /// TLS; no certificate is checked, so an attacker on the network can stand in for the server.
    Unverified,
    /// Clear text over a network: everyone on the network path can read and change everything, passwords included.
    Clear,
}

impl Protection {
    /// Whether nobody learns anything by listening on a network.
    pub const fn is_private(self) -> bool {
        !matches!(self, Self::Clear)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "on this machine only",
            Self::Loopback => "not encrypted, and by the loopback only",
            Self::Verified => "encrypted (TLS), certificate verified",
            Self::VerifiedIssuer => "encrypted (TLS), issuer of the certificate verified, its name not",
            Self::Unverified => "encrypted (TLS), certificate not verified",
            Self::Clear => "not encrypted",
        })
    }
}

/// Whether a host is this machine by its name or address: `localhost`, `127.0.0.0/8`, `::1`.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_text_over_a_network_is_not_private_and_says_so() {
        use Protection::{Local, Loopback, Unverified, Verified, VerifiedIssuer};
        for protection in [Local, Loopback, Verified, VerifiedIssuer, Unverified] {
            assert!(protection.is_private(), "{protection}");
        }
        assert!(!Protection::Clear.is_private());
        assert_eq!(Protection::Clear.to_string(), "not encrypted");
    }

    #[test]
    fn the_loopback_is_known_by_name_and_address_and_nothing_else_is() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "db", "localhost.example", "10.0.0.1", "0.0.0.0", "::", "1270.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
