//! How the bytes between this process and a backend are protected on their way.

use std::fmt;

/// How the bytes between this process and a backend are protected on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// They do not leave this machine: a file, or a Unix socket.
    Local,
    /// TLS; the certificate is by a trusted authority and for the server's name.
    Verified,
    /// TLS; the certificate is by a trusted authority, its name is not checked.
    VerifiedIssuer,
    /// TLS; no certificate is checked, so an attacker on the network can stand in for the server.
    Unverified,
    /// Clear text: everyone on the network path can read and change everything, passwords included.
    Clear,
}

impl Protection {
    /// Whether nobody who only listens on the network learns anything.
    pub const fn is_private(self) -> bool {
        !matches!(self, Self::Clear)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "on this machine only",
            Self::Verified => "encrypted (TLS), certificate verified",
            Self::VerifiedIssuer => "encrypted (TLS), issuer of the certificate verified, its name not",
            Self::Unverified => "encrypted (TLS), certificate not verified",
            Self::Clear => "not encrypted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_text_is_not_private_and_says_so() {
        for protection in
            [Protection::Local, Protection::Verified, Protection::VerifiedIssuer, Protection::Unverified]
        {
            assert!(protection.is_private(), "{protection}");
            assert!(!protection.to_string().contains("not encrypted"), "{protection}");
        }
        assert!(!Protection::Clear.is_private());
        assert_eq!(Protection::Clear.to_string(), "not encrypted");
    }
}
