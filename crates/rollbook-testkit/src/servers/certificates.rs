//! Certificates of a private authority, for servers with TLS.

use std::path::PathBuf;
use std::process::Command;

use super::run;

/// A folder with an authority (`ca.crt`) and a server certificate that it issued (`server.crt`,
/// `server.key`), for 127.0.0.1.
#[derive(Debug)]
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Creates both with the `openssl` command. The server's user can read all files.
    pub fn new() -> Self {
        Self::named("IP:127.0.0.1")
    }

    /// Creates both for another name or address, such as `DNS:db.example`.
    pub fn named(name: &str) -> Self {
        let folder = tempfile::Builder::new().permissions(permissions(0o755)).tempdir().expect("a folder");
        let these = Self(folder);
        let key = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        these.openssl(&format!(
            "{key} -keyout ca.key -out ca.crt -subj /CN=ours -addext keyUsage=critical,keyCertSign"
        ));
        let by_ca = "-CA ca.crt -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
        these.openssl(&format!(
            "{key} {by_ca} -keyout server.key -out server.crt -subj /CN=server -addext subjectAltName={name}"
        ));
        std::fs::set_permissions(these.path("server.key"), permissions(0o644)).expect("our file");
        these
    }

    /// Creates a server certificate that no authority issued, as `openssl req -x509` does by default: `server.crt`,
    /// and the same as `ca.crt`.
    pub fn signed_by_itself() -> Self {
        let folder = tempfile::Builder::new().permissions(permissions(0o755)).tempdir().expect("a folder");
        let these = Self(folder);
        these.openssl(
            "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout server.key -out \
             server.crt -subj /CN=alone -addext subjectAltName=IP:127.0.0.1",
        );
        std::fs::copy(these.path("server.crt"), these.path("ca.crt")).expect("our file");
        std::fs::set_permissions(these.path("server.key"), permissions(0o644)).expect("our file");
        these
    }

    /// Returns the SHA-256 fingerprint of the server's certificate, as `openssl` shows it.
    pub fn fingerprint(&self) -> String {
        let shown = run(Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", "server.crt"])
            .current_dir(self.0.path()));
        shown.trim().rsplit_once('=').expect("a fingerprint").1.to_owned()
    }

    /// Returns the path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()));
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn permissions(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
