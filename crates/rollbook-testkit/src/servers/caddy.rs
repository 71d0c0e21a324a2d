//! A private Caddy, in front of a test's servers.

use std::net::{SocketAddr, TcpStream};

use super::{Guard, new_folder};

/// A Caddy with a configuration of the test's own.
#[derive(Debug)]
pub struct Caddy {
    _guard: Guard,
}

impl Caddy {
    /// Starts Caddy with this Caddyfile, and waits until it answers at `address`, where the file lets it listen.
    pub async fn configured(settings: &str, address: SocketAddr) -> Self {
        let folder = new_folder("rollbook-caddy-");
        let file = folder.join("Caddyfile");
        // No port for administration.
        let settings = format!("{{\n    admin off\n}}\n{settings}");
        std::fs::write(&file, settings).expect("a written file");
        let here = folder.display();
        let command = [
            "env".to_owned(),
            format!("HOME={here}"),
            format!("XDG_DATA_HOME={here}"),
            format!("XDG_CONFIG_HOME={here}"),
            "caddy".to_owned(),
            "run".to_owned(),
            "--config".to_owned(),
            file.display().to_string(),
            "--adapter".to_owned(),
            "caddyfile".to_owned(),
        ];
        let guard = Guard::start(folder, &command);
        guard.until_it_answers("Caddy answers", || TcpStream::connect(address).is_ok()).await;
        Self { _guard: guard }
    }
}
