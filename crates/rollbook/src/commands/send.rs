//! `send`: signs an event and posts it to a running receiver, as Svix would.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::signature::{SigningSecret, VerifyError};
use rollbook_core::time::Clock;
use rollbook_http::client::Connection;
use rollbook_simulator::history::Event;
use rollbook_simulator::samples;
use rollbook_simulator::sender::{REQUEST_TIMEOUT, post};
use rollbook_simulator::story;
use serde_json::{Value, json};

use super::healthcheck::reachable;
use super::on_all_cores;
use crate::cli::{Output, Send};
use crate::clock::SystemClock;
use crate::config::{Config, Problems, values};
use crate::nearest::nearest;
use crate::output::{harmless, print, print_as, print_json};

/// Number of random characters of an id, as in Svix's ids.
const ID_LENGTH: usize = 27;

/// Runs the command.
///
/// # Errors
/// An answer is not 2xx, or there is none.
pub(crate) fn run(config: &Config, arguments: &Send) -> anyhow::Result<()> {
    if arguments.list {
        let types: Vec<&str> = samples::event_types().collect();
        return Ok(print_as(arguments.output, &types, |types| types.join("\n"))?);
    }
    let secrets = config.signing_secrets()?;
    let body = Body::of(arguments)?;
    let target = match &arguments.url {
        Some(url) => Target::parse(url, config.settings.webhook_path.first())?,
        None => Target::of(config),
    };
    on_all_cores(send(secrets.first(), &body, &target, arguments))
}

async fn send(secret: &SigningSecret, body: &Body, target: &Target, arguments: &Send) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut connection = connect(target).await?;
    let mut answers = Vec::new();
    let no_match = VerifyError::NoMatch.to_string();
    let (mut refused, mut unsigned) = (0, false);
    for _ in 0..arguments.count {
        if !connection.is_open() {
            connection = connect(target).await?;
        }
        let event = body.event(&*clock)?;
        let answer = post(&mut connection, &target.path, &event, secret, clock.now())
            .await
            .with_context(|| format!("{} was sent and has no answer; it may have been taken", event.id))?;
        refused += usize::from(!answer.is_success());
        unsigned |= answer.body.contains(&no_match);
        let said = harmless(answer.body.trim());
        match arguments.output {
            Output::Text => print(&format!("{} {} {} {said}", event.id, event.event_type, answer.status))?,
            Output::Json => answers.push(json!({
                "id": event.id.as_str(),
                "type": event.event_type,
                "status": answer.status,
                "answer": serde_json::from_str(&answer.body).unwrap_or(Value::String(said)),
            })),
        }
    }
    if arguments.output == Output::Json {
        print_json(&Value::Array(answers))?;
    }
    if refused > 0 {
        let fix = if unsigned {
            "; the receiver has another signing secret than this command: give both the same, or see which is Clerk's"
        } else {
            ""
        };
        bail!("{refused} of {} deliveries were refused{fix}", arguments.count);
    }
    Ok(())
}

async fn connect(target: &Target) -> anyhow::Result<Connection> {
    Connection::connect(target.address, REQUEST_TIMEOUT)
        .await
        .context("is rollbook serve running? Give its address by --url or --listen")
}

/// Event that is sent.
enum Body {
    /// A built-in event, with the current time.
    Sample { event_type: String, json: String },
    /// The bytes of a file.
    File(Bytes),
}

impl Body {
    fn of(arguments: &Send) -> anyhow::Result<Self> {
        if let Some(path) = &arguments.file {
            if let Err(wrong) = values::path(&path.to_string_lossy(), "file") {
                return Err(Problems::one("--file", wrong.what, wrong.fix).into());
            }
            let bytes = std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
            return Ok(Self::File(bytes.into()));
        }
        let event_type = arguments.event_type.as_deref().unwrap_or_default();
        match story::event(event_type) {
            Some(json) => Ok(Self::Sample { event_type: event_type.to_owned(), json }),
            None => Err(unknown(event_type).into()),
        }
    }

    fn event(&self, clock: &dyn Clock) -> anyhow::Result<Event> {
        let now = clock.now();
        let (event_type, body) = match self {
            Self::Sample { event_type, json } => (event_type.clone(), samples::restamp(json, now)?),
            Self::File(bytes) => ("file".to_owned(), bytes.clone()),
        };
        Ok(Event { id: new_id(), event_type, at: now, body })
    }
}

fn unknown(event_type: &str) -> Problems {
    let fix = match nearest(event_type, samples::event_types().map(str::to_owned)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("Clerk's are {}", samples::event_types().collect::<Vec<_>>().join(", ")),
    };
    Problems::one(format!("TYPE {event_type:?}"), "there is no such event type", fix)
}

pub(super) fn new_id() -> MessageId {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(ID_LENGTH).collect();
    MessageId::new(format!("msg_{random}"))
}

/// Address and path of a receiver.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) path: String,
}

impl Target {
    /// Returns the receiver that this configuration describes.
    pub(super) fn of(config: &Config) -> Self {
        let settings = &config.settings;
        Self { address: reachable(settings.listen), path: settings.webhook_path.first().to_owned() }
    }

    /// Parses a URL. One without a path gets `default_path`.
    pub(super) fn parse(url: &str, default_path: &str) -> Result<Self, Problems> {
        let refuse = |wrong: &str| {
            // The URL is not repeated: somebody may have written a password into it.
            Problems::one("--url", wrong, "write it as http://127.0.0.1:8080/webhooks/clerk")
        };
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            refuse("is not http://; this sends to the receiver itself, not through a proxy")
        })?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port = if host.contains("]:") || (host.contains(':') && !host.ends_with(']')) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address =
            resolve(&with_port).map_err(|error| refuse(&format!("its host can't be found ({error})")))?;
        let path = if matches!(path, "" | "/") { default_path } else { path };
        Ok(Self { address, path: path.to_owned() })
    }
}

fn resolve(host: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    host.to_socket_addrs()?.next().ok_or_else(|| anyhow!("it has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_with_its_port_and_path_or_without() {
        for (url, address, path) in [
            ("http://127.0.0.1:8080/webhooks/clerk", "127.0.0.1:8080", "/webhooks/clerk"),
            ("http://127.0.0.1", "127.0.0.1:80", "/webhooks/clerk"),
            ("http://[::1]:90/x", "[::1]:90", "/x"),
            ("http://[::1]/", "[::1]:80", "/webhooks/clerk"),
        ] {
            let target = Target::parse(url, "/webhooks/clerk").expect(url);
            assert_eq!((target.address.to_string().as_str(), target.path.as_str()), (address, path));
        }
        for url in ["https://127.0.0.1", "127.0.0.1:80", "http://", "http://127.0.0.1:port"] {
            assert!(Target::parse(url, "/x").is_err(), "{url}");
        }
    }

    #[test]
    fn a_url_that_is_refused_is_not_shown_since_it_may_hold_a_password() {
        for url in ["http://rb:ZQXK@127.0.0.1:1/x", "https://rb:ZQXK@h/", "rb:ZQXK@h"] {
            let Err(refused) = Target::parse(url, "/x") else { panic!("{url} is taken") };
            let refused = refused.to_string();
            assert!(!refused.contains("ZQXK") && refused.contains("--url"), "{refused}");
        }
    }

    #[test]
    fn an_unknown_type_names_the_nearest() {
        assert!(unknown("user.create").to_string().contains("did you mean user.created?"));
        assert!(unknown("zzz").to_string().contains("user.updated"));
    }
}
