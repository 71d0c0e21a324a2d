//! A private nginx, in front of a test's server or with TLS.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::certificates::Certificates;
use super::{Guard, free_port, new_folder};

/// An nginx that forwards every request over reused keep-alive connections, or answers by itself.
#[derive(Debug)]
pub struct Nginx {
    _guard: Guard,
    /// Address on which nginx listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts nginx in front of `server` and waits until it answers. It keeps each connection to the server
    /// for `kept_for`.
    pub async fn start(server: SocketAddr, kept_for: Duration) -> Self {
        // By default nginx does not resend a POST: if the server closes the connection, the answer is 502.
        let upstream = format!(
            "upstream rollbook {{ server {server} max_fails=0; keepalive 64; keepalive_timeout {}ms; }}",
            kept_for.as_millis()
        );
        let location = "proxy_pass http://rollbook;\nproxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
                        proxy_set_header Host $host;";
        Self::with(&upstream, "", location).await
    }

    /// Starts nginx with TLS and HTTP/2, which answers every request with 200 and this body.
    pub async fn answering(certificates: &Certificates, body: &str) -> Self {
        let [certificate, key] = ["server.crt", "server.key"].map(|name| certificates.path(name));
        let tls =
            format!("ssl_certificate {};\nssl_certificate_key {};", certificate.display(), key.display());
        Self::with(&tls, " ssl http2", &format!("default_type application/json;\nreturn 200 '{body}';")).await
    }

    /// Starts nginx with these settings of its block `http`, and waits until it answers at `address`, where they let it listen.
    pub async fn configured(http: &str, address: SocketAddr) -> Self {
        let folder = new_folder("rollbook-nginx-");
        let here = folder.display();
        let settings = format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {here}/body;\nproxy_temp_path {here}/proxy;\nfastcgi_temp_path {here}/fastcgi;\n\
             uwsgi_temp_path {here}/uwsgi;\nscgi_temp_path {here}/scgi;\n{http}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, settings).expect("a written file");
        // The folder of the program may not be in PATH.
        let debian = "/usr/sbin/nginx";
        let program = if Path::new(debian).exists() { debian } else { "nginx" };
        let command = [program, "-e", "stderr", "-c", &file.display().to_string()].map(str::to_owned);
        let guard = Guard::start(folder, &command);
        guard.until_it_answers("nginx answers", || TcpStream::connect(address).is_ok()).await;
        Self { _guard: guard, address }
    }

    async fn with(http: &str, listen: &str, location: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let server = format!("server {{ listen {address}{listen}; location / {{\n{location}\n}} }}");
        Self::configured(&format!("{http}\n{server}"), address).await
    }
}
