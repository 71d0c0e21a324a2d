//! A small service: tasks that only members with a permission may delete.
//!
//! ```text
//! cargo run -p rollbook-session --features axum --example tasks -- \
//!     --key FILE --issuer https://clerk.example.com --party https://app.example.com [--listen 127.0.0.1:3000]
//! ```
//!
//! FILE has the JWKS public key as PEM, or a JWKS. The file is read again every 10 s, so a rotation of keys needs no
//! restart; while the file is absent or damaged, the known keys stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get};
use rollbook_session::{Denied, KeySet, Keys, KeysError, Policy, Session, Verifier};

type Error = Box<dyn std::error::Error>;

const USAGE: &str = "tasks --key FILE --issuer URL --party ORIGIN [--party ORIGIN]… [--listen ADDRESS:PORT]";
const READ_EVERY: Duration = Duration::from_secs(10);

async fn who(session: Session) -> String {
    let organization = session.organization().map_or("none", |organization| organization.id());
    format!("user {}, organization {organization}\n", session.user_id())
}

async fn delete_task(session: Session) -> Result<String, Denied> {
    let organization = session.require("org:tasks:delete")?;
    Ok(format!("deleted in {}\n", organization.id()))
}

fn routes(verifier: Verifier) -> Router {
    Router::new().route("/who", get(who)).route("/tasks/{id}", delete(delete_task)).with_state(verifier)
}

fn parse(document: &[u8]) -> Result<KeySet, KeysError> {
    match std::str::from_utf8(document) {
        Ok(text) if !text.trim_start().starts_with('{') => KeySet::from_pem(text),
        _ => KeySet::from_jwks(document),
    }
}

/// Replaces the keys when the file has others. Never returns.
async fn reload(keys: Keys, file: &Path) {
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let document = std::fs::read(file).map_err(|error| error.to_string());
        match document.and_then(|document| parse(&document).map_err(|error| error.to_string())) {
            Ok(set) => {
                if keys.replace(set) {
                    println!("keys replaced: {:?}", keys.current());
                }
            }
            Err(error) => println!("{}: {error}; the known keys stay", file.display()),
        }
    }
}

struct Options {
    key: PathBuf,
    policy: Policy,
    listen: String,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, Error> {
    let (mut key, mut issuer, mut parties) = (None, None, Vec::new());
    let mut listen = "127.0.0.1:3000".to_owned();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match name.as_str() {
            "--key" => key = Some(value.into()),
            "--issuer" => issuer = Some(value),
            "--party" => parties.push(value),
            "--listen" => listen = value,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(Options { key: key.ok_or(USAGE)?, policy: Policy::new(issuer.ok_or(USAGE)?, parties)?, listen })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let options = options(std::env::args().skip(1))?;
    let keys = Keys::new(parse(&std::fs::read(&options.key)?)?);
    let verifier = Verifier::new(keys.clone(), options.policy)
        .on_refusal(|refusal| println!("refused: {} ({refusal})", refusal.name()));
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, routes(verifier)) => served?,
        () = reload(keys, &options.key) => {}
    }
    Ok(())
}
