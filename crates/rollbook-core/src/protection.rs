//! Protection of the bytes between this process and a backend.

use std::fmt;
use std::net::IpAddr;

/// Protection of the bytes between this process and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The bytes do not leave this machine: a file or a Unix socket.
    Local,
    /// Clear text over the loopback interface: the bytes do not leave this machine.
    Loopback,
    /// TLS: the certificate is issued by a trusted authority for the server's name.
    Verified,
    /// TLS: the fingerprint of the certificate is set, and its issuer and name do not matter.
    Pinned,
    /// TLS: the certificate is issued by a trusted authority; its name is not checked.
    VerifiedIssuer,
    /// TLS: the certificate is not checked, so an attacker on the network can impersonate the server.
    Unverified,
    /// Clear text over a network: everyone on the network path can read and change everything, including passwords.
    Clear,
}

impl Protection {
    /// Returns whether the bytes are hidden from listeners on the network.
    pub const fn is_private(self) -> bool {
        !matches!(self, Self::Clear)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "on this machine only",
            Self::Loopback => "not encrypted, loopback only",
            Self::Verified => "encrypted (TLS), certificate verified",
            Self::Pinned => "encrypted (TLS), certificate pinned by fingerprint",
            Self::VerifiedIssuer => "encrypted (TLS), certificate issuer verified, name not verified",
            Self::Unverified => "encrypted (TLS), certificate not verified",
            Self::Clear => "not encrypted",
        })
    }
}

/// Returns whether a host is this machine, by its name or address: `localhost`, `127.0.0.0/8`, `::1`.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_text_over_a_network_is_not_private() {
        use Protection::{Local, Loopback, Pinned, Unverified, Verified, VerifiedIssuer};
        for protection in [Local, Loopback, Verified, Pinned, VerifiedIssuer, Unverified] {
            assert!(protection.is_private(), "{protection}");
        }
        assert!(!Protection::Clear.is_private());
        assert_eq!(Protection::Clear.to_string(), "not encrypted");
    }

    #[test]
    fn only_loopback_names_and_addresses_are_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "db", "localhost.example", "10.0.0.1", "0.0.0.0", "::", "1270.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
