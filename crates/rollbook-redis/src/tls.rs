//! TLS connections to Redis: by a trusted authority and the host's name, or by a pinned fingerprint.
//!
//! A refused certificate is described in words: which one it is, why it is refused, and what to set.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::SockRef;
use rollbook_core::lock::lock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::{self, Fingerprint, Summary};

/// Beginning of the text about a refused certificate.
pub(crate) const UNTRUSTED: &str = "the server's certificate is not trusted";

/// Certificates that are trusted.
#[derive(Clone)]
pub(crate) enum Trust {
    /// By the authorities that the system trusts, for the host's name.
    System,
    /// By these authorities, for the host's name.
    Authorities(Arc<RootCertStore>),
    /// By one of these fingerprints, whatever the names and dates.
    Fingerprints(Arc<[Fingerprint]>),
}

/// Opens a TLS connection.
///
/// # Errors
/// The text of a refused certificate begins with [`UNTRUSTED`].
pub(crate) async fn connect(
    host: &str,
    port: u16,
    trust: &Trust,
    settings: &TcpSettings,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let refusal = Refusal::default();
    let connector = TlsConnector::from(Arc::new(config(trust, refusal.clone())?));
    let stream = TcpStream::connect((host, port)).await?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_nodelay(settings.nodelay())?;
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    connector.connect(name, stream).await.map_err(|error| match refusal.take() {
        Some(text) => io::Error::other(format!("{UNTRUSTED}: {text}")),
        None => error,
    })
}

fn config(trust: &Trust, refusal: Refusal) -> io::Result<ClientConfig> {
    let provider =
        CryptoProvider::get_default().ok_or_else(|| io::Error::other("no TLS cryptography is selected"))?;
    let by_authorities = |roots: &Arc<RootCertStore>| {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build();
        verifier.map(Check::Authorities).map_err(io::Error::other)
    };
    let check = match trust {
        Trust::System => by_authorities(&system_roots()?)?,
        Trust::Authorities(roots) => by_authorities(roots)?,
        Trust::Fingerprints(fingerprints) => Check::Fingerprints(Arc::clone(fingerprints)),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Verifier { check, algorithms, refusal });
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    // Each connection verifies the certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Authorities that the system trusts; read once.
fn system_roots() -> io::Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have certificates that nobody can read.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this system has no root certificates: install ca-certificates, or set redis_ca_file or redis_fingerprint",
        ));
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

/// Text about a refused certificate, passed from the verifier to the caller of the handshake.
#[derive(Clone, Debug, Default)]
struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    fn put(&self, text: String) {
        *lock(&self.0) = Some(text);
    }

    fn take(&self) -> Option<String> {
        lock(&self.0).take()
    }
}

enum Check {
    Authorities(Arc<WebPkiServerVerifier>),
    Fingerprints(Arc<[Fingerprint]>),
}

struct Verifier {
    check: Check,
    algorithms: WebPkiSupportedAlgorithms,
    refusal: Refusal,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match &self.check {
            Check::Authorities(verifier) => {
                verifier.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
            }
            Check::Fingerprints(fingerprints)
                if fingerprints.contains(&certificate::fingerprint(certificate)) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            Check::Fingerprints(..) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        };
        if let Err(error) = &verified {
            self.refusal.put(refusal(certificate, name, error));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Fix for a certificate of an authority that is not known.
const BY_ITS_AUTHORITY: &str = "set redis_ca_file to the certificate of its authority";

/// Says which certificate is refused, why, and what to set.
fn refusal(certificate: &[u8], name: &ServerName<'_>, error: &Error) -> String {
    let summary = Summary::read(certificate);
    let fingerprint = certificate::show(&certificate::fingerprint(certificate));
    let which = summary.as_ref().map_or_else(
        || "a certificate that can't be read".to_owned(),
        |Summary { subject, issuer, valid }| {
            format!("certificate of {subject}, issued by {issuer}, valid from {} to {}", valid.0, valid.1)
        },
    );
    let is_own_issuer = summary.as_ref().is_some_and(|summary| summary.subject == summary.issuer);
    let host = name.to_str();
    let by_fingerprint =
        "compare this fingerprint with the provider's or the server's own, and set redis_fingerprint to it";
    let (why, fix) = match error {
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => (
            "redis_fingerprint names another one".to_owned(),
            format!("if the certificate was renewed, {by_fingerprint}"),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_own_issuer => {
            ("it is self-signed, and no authority signed it".to_owned(), by_fingerprint.to_owned())
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            ("no trusted authority signed it".to_owned(), format!("{BY_ITS_AUTHORITY}, or {by_fingerprint}"))
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => (
            "it has expired".to_owned(),
            "renew it at the server, or correct the clock of this machine".to_owned(),
        ),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            "it is not valid yet".to_owned(),
            "correct the clock of this machine, or of the machine that made it".to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => (
            format!("it is not for {host}, only for {}", names(presented)),
            format!("write a name of the certificate in the URL, or {by_fingerprint}"),
        ),
        Error::InvalidCertificate(CertificateError::NotValidForName) => (
            format!("it is not for {host}"),
            format!("write a name of the certificate in the URL, or {by_fingerprint}"),
        ),
        // An authority's certificate at a server: what openssl makes by default.
        _ if is_own_issuer => (format!("it is self-signed ({error})"), by_fingerprint.to_owned()),
        _ => (error.to_string(), format!("{BY_ITS_AUTHORITY}, or {by_fingerprint}")),
    };
    format!("{which}, SHA-256 fingerprint {fingerprint}: {why}. Fix: {fix}")
}

/// Shows at most a few names of a certificate.
fn names(presented: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    let plain = |name: &String| name.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
    let shown: Vec<String> = presented.iter().take(SHOWN_MAX).map(plain).collect();
    match (shown.is_empty(), presented.len() > SHOWN_MAX) {
        (true, _) => "no name at all".to_owned(),
        (false, true) => format!("{} and others", shown.join(", ")),
        (false, false) => shown.join(", "),
    }
}
